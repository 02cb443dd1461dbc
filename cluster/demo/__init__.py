"""The small trained ChatGLM3 that comes with the package: its files, and what made and measured them."""

from pathlib import Path
from typing import Final

CHECKPOINT: Final = Path(__file__).parent / "checkpoint"
MODEL_NAME: Final = "chatglm3-demo"
