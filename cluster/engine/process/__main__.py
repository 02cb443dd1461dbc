"""Entry of the engine's process: ``python -m cluster.engine.process``, started by ``spawn`` and by nobody else.

First of all it ties its life to its parent's; imports of seconds come after that.
"""

from __future__ import annotations

import argparse

from cluster.parentage import die_with, leave_ending_to_parent


def main() -> None:
    """Run the engine's process to its end."""
    parser = argparse.ArgumentParser(prog="cluster.engine.process", description=__doc__)
    parser.add_argument("factory", help="module:function that makes the engine")
    parser.add_argument("--parent", type=int, required=True, help="process id")
    parser.add_argument("--link", type=int, required=True, help="descriptor of the socket")
    parser.add_argument("--vitals", type=int, required=True, help="descriptor of the shared memory")
    parser.add_argument("--log-name", required=True)
    options = parser.parse_args()
    die_with(options.parent)
    leave_ending_to_parent()

    from cluster.engine.process.child import run  # noqa: PLC0415 - takes a while, and the parent may end meanwhile

    run(options.factory, link_fd=options.link, vitals_fd=options.vitals, log_name=options.log_name)


if __name__ == "__main__":
    main()
