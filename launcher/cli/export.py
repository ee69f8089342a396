"""`launch export`."""

from collections.abc import Sequence
from pathlib import Path

from launcher.checkpoint.catalog import open_verified
from launcher.cli.parser import Parser
from launcher.errors import Problem, UserError
from launcher.named_runs import find_run


def export_checkpoint(arguments: Sequence[str]) -> int:
    """Write the model of a checkpoint as safetensors, with all that is needed to use it beside it."""
    parser = Parser(
        prog="launch export",
        description="Write the model of a checkpoint as safetensors. Beside it: recipe, base shapes, "
        "tokenizer and model card. models/exported.py loads it with plain torch. --format huggingface: a "
        "folder for `transformers`, of models that are a GPT-NeoX (attention and ffn in turn).",
    )
    parser.add_argument("checkpoint", help="folder of a checkpoint, or of a run: its newest good one")
    parser.add_argument("out", help="file to write, such as model.safetensors; or the folder")
    parser.add_argument("--format", choices=("safetensors", "huggingface"), default="safetensors")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the large matrices"
    )
    options = parser.parse_args(arguments)
    out = Path(options.out)
    to_hub = options.format == "huggingface"
    if not to_hub and out.suffix != ".safetensors":
        raise UserError(Problem(options.out, "does not end in .safetensors", f"write {out.stem}.safetensors"))
    saved = open_verified(find_run(options.checkpoint))
    if to_hub:
        from launcher.export_hugging_face import export_hugging_face as export
    else:
        from launcher.export_model import export_model as export
    for path in export(saved, out, options.dtype):
        print(f"{path}  {path.stat().st_size:,} bytes")
    return 0
