"""Examples and exit codes below the help of every verb. Torch-free."""

from collections.abc import Mapping
from typing import Final

_TRAINS: Final = (
    "0 trained to its last step; 1 a bug; 2 what you can fix; 10 out of memory; 11 not finite; 12 hang; "
    "13 node lost; 14 storage; 15 replicas differ; 16 to 18 stopped by a signal, preemption, the time limit; "
    "130 ctrl-C: docs/endings.md"
)
EXIT_CODES: Final[Mapping[str, str]] = {
    "launch": _TRAINS,
    "launch resume": _TRAINS,
    "launch trace": _TRAINS,
    "launch check": "0 passed; 1 failed",
    "launch sweep": "0 every point ended; 1 some failed",
    "launch diff": "0 no difference; 1 some",
    "launch verify": "0 all whole; 1 some damaged",
    "launch doctor": "0 nothing bad; 1 something is",
}
"""Of verbs with others than 0, and 2 for what the user can fix."""

EXAMPLES: Final[Mapping[str, tuple[str, str]]] = {
    "launch": (
        "launch s4d-lm-quickstart train.steps=500",
        "launch recipes/s4-lm-1b.yaml --nodes 8 --profile mysite --dry-run",
    ),
    "launch resume": ("launch resume latest", "launch resume latest train.steps=20000 --nodes 4"),
    "launch plan": (
        "launch plan s4-lm-1b --nodes 8",
        "launch plan s4-lm-1b --compare nodes=1,2,8 parallel.strategy=fsdp2,hsdp",
    ),
    "launch validate": ("launch validate recipes/*.yaml", "launch validate mine.yaml --json"),
    "launch recipes": ("launch recipes", "launch recipes | grep s4d"),
    "launch init": ("launch init s4d-lm-tiny -o mine.yaml", "launch init --extension my_layer"),
    "launch diff": ("launch diff s4d-lm-tiny mine.yaml", "launch diff latest"),
    "launch explain": ("launch explain s4-lm-1b", "launch explain latest optim.lr=1e-3"),
    "launch shapes": (
        "launch shapes s4d-lm-tiny -o base.bsh",
        "launch shapes mine.yaml model.d_model=128 -o base.bsh",
    ),
    "launch check": ("launch check s4d-lm-quickstart", "launch check mine.yaml --widths 128,256,512,1024"),
    "launch sweep": (
        "launch sweep s4d-lm-tiny optim.lr=1e-3,2e-3,4e-3 seed=1,2",
        "launch sweep mine.yaml optim.lr=1e-4..1e-2 --random 20",
    ),
    "launch generate": (
        "launch generate latest --prompt 'def main('",
        "launch generate latest --prompt @prompt.txt -n 4 --json",
    ),
    "launch eval": ("launch eval latest", "launch eval latest --step 1000 --json"),
    "launch status": ("launch status", "launch status latest"),
    "launch ls": ("launch ls", "launch ls /scratch/runs"),
    "launch watch": ("launch watch latest", "launch watch latest --once"),
    "launch report": ("launch report latest", "launch report runs/sweep-s4d-lm-tiny -o report"),
    "launch trace": ("launch trace s4d-lm-quickstart --steps 3", "launch trace latest --nproc-per-node 2"),
    "launch logs": ("launch logs latest -f", "launch logs latest --rank 3"),
    "launch cancel": ("launch cancel latest", "launch cancel runs/s4d-lm-tiny-20260101-120000"),
    "launch profile": ("launch profile init", "launch profile init --help"),
    "launch doctor": ("launch doctor", "launch doctor --cluster --json"),
    "launch inspect": (
        "launch inspect latest",
        "launch inspect runs/one/checkpoints/step-0000000100 runs/two",
    ),
    "launch verify": ("launch verify latest", "launch verify s3://bucket/runs/one"),
    "launch export": (
        "launch export latest model.safetensors",
        "launch export runs/one/checkpoints/step-0000000100 model.safetensors",
    ),
    "launch replay": ("launch replay latest", "launch replay latest --tracking-uri http://mlflow:5000"),
    "launch schema": ("launch schema > recipe.schema.json", "launch schema | head"),
    "launch completion": ("launch completion bash >> ~/.bashrc", "launch completion fish | source"),
    "launch ui": ("launch ui", "launch ui --port 5001"),
    "launch data build": (
        "launch data build texts/*.txt -o data/mine --tokenizer tokenizer.json",
        "launch data build docs.jsonl.gz -o data/mine --tokenizer bytes",
    ),
    "launch data train-tokenizer": (
        "launch data train-tokenizer texts/*.txt -o tokenizer.json",
        "launch data train-tokenizer docs.jsonl.gz -o tokenizer.json --vocab-size 16384",
    ),
    "launch data inspect": ("launch data inspect data/mine", "launch data inspect data/mine --documents 5"),
    "launch data show": (
        "launch data show latest --step 120",
        "launch data show latest --step 120 --sample 7",
    ),
    "launch data verify": ("launch data verify data/mine", "launch data verify s3://bucket/data/mine"),
}


def help_end(prog: str) -> str:
    """What follows after the arguments; nothing for what is not a verb."""
    lines = [f"  {example}" for example in EXAMPLES.get(prog, ())]
    codes = EXIT_CODES.get(prog, "0 done")
    codes += "" if prog in EXIT_CODES and EXIT_CODES[prog] is _TRAINS else "; 2 what you can fix; 130 ctrl-C"
    return "\n".join(["", "examples:", *lines, "", f"exit codes: {codes}", ""]) if lines else ""
