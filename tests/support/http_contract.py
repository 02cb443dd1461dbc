"""schemathesis against a gateway: requests made from its own document, answers checked against it."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.gateway import OPERATOR_TOKEN

# Not positive_data_acceptance: rules that join two fields (``stream_options`` needs ``stream``), sizes in tokens and
# state (a conversation that is gone) cannot be told in a schema, and what breaks them is refused by right.
_CHECKS: Final = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
    "use_after_free",
    "ignored_auth",
)
_CONFIG: Final = """
color = false
generation.database = "none"
headers = {{ Authorization = "Bearer {key}" }}
[[operations]]
include-tag = "operations"
headers = {{ Authorization = "Bearer {operator}" }}
"""
_COMMAND: Final = (sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()")


@dataclass(frozen=True, slots=True)
class Run:
    """One run against the gateway at ``url`` with a tenant's key; ``folder`` is for its files."""

    url: str
    folder: Path
    key: str

    async def check(self, *phases: str, seconds: int) -> None:
        """Fail with schemathesis' report if it finds anything.

        Args:
            phases: which of its own, as its command line takes them.
            seconds: for all; what generates anew goes on until they are over.
        """
        config = self.folder / "schemathesis.toml"
        config.write_text(_CONFIG.format(key=self.key, operator=OPERATOR_TOKEN))
        process = await asyncio.create_subprocess_exec(
            *(*_COMMAND, "--config-file", str(config), "run", f"{self.url}/openapi.json", "--no-shrink"),
            *("--checks", ",".join(_CHECKS), "--phases", ",".join(phases), "--max-time", str(seconds)),
            cwd=self.folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            report, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, report.decode()
