"""The tables of a report. Every number is of the run folder: the journal, the plan or the recipe."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from launcher.check.gate import recorded_check
from launcher.recipe.differences import flat_values
from launcher.report.run_facts import RunFacts
from launcher.report.spikes import Spike
from launcher.table import size_text
from launcher.track.console import format_count, format_duration, format_fixed, perplexity
from launcher.track.tracking_uri import mask_values

Rows = list[list[str]]
"""Of text; the first row is the head."""


def what_was_run(facts: RunFacts) -> Rows:
    """Recipe, size, code and machines."""
    plan, environment = facts.plan, facts.environment
    commit = environment.get("commit") or "not known"
    starts = facts.history.of("start")
    worlds = ", ".join(dict.fromkeys(f"{one['world_size']} x {_device(one)}" for one in starts))
    packages = environment.get("packages", {})
    model, mup = facts.recipe.model, facts.recipe.mup
    return [
        ["", ""],
        ["folder", facts.url],
        ["state", facts.state or "not known"],
        ["model", f"{facts.recipe.name}: {model.num_layers} layers of width {model.d_model}"],
        ["parameters", f"{plan['num_parameters']:,}"],
        ["step", f"{facts.history.step:,} of {facts.total:,}, {plan['tokens_per_step']:,} tokens each"],
        ["FLOPs", f"{plan['flops_per_token']:.3g} a token, {plan['total_flops']:.3g} planned in all"],
        ["ranks", worlds or "not started"],
        ["code", commit + (" with uncommitted changes" if environment.get("dirty") else "")],
        ["versions", ", ".join(f"{name} {packages[name]}" for name in _SHOWN if name in packages)],
        ["parametrization", mup.type + (f", base width {mup.base_width}" if mup.base_width else "")],
        ["base shapes", str(plan["base_shapes_hash"])],
        ["coordinate check", _CHECKED[recorded_check(facts.recipe)]],
        ["newest checkpoint", f"step {facts.saved[-1]:,}" if facts.saved else "none"],
    ]


_CHECKED: Mapping[bool | None, str] = {
    True: "passed",
    False: "FAILED",
    None: "none is recorded in runs/checks for this model and its rates",
}
_SHOWN = ("mulaunch", "torch", "deepspeed", "numpy")


def _device(start: Mapping[str, Any]) -> str:
    return str(start.get("made_with", {}).get("device", "not known"))


def not_default(facts: RunFacts) -> Rows:
    """Values of the recipe that are not the defaults."""
    chosen = _values(facts.recipe.model_dump(mode="json", exclude_defaults=True))
    return [["key", "value"], *([key, value] for key, value in chosen.items())]


def _values(recipe: Mapping[str, Any]) -> dict[str, str]:
    """By key, without what may be a secret: a report is shown around."""
    values = flat_values({key: mask_values(section) for key, section in recipe.items()})
    return {key: "(not shown)" if key.startswith("cluster.env.") else value for key, value in values.items()}


def results(facts: RunFacts) -> Rows:
    """Last training loss, last and best validation."""
    history = facts.history
    columns, found = history.columns, history.validations
    rows = [["", "step", "loss", "perplexity", "accuracy", "bits a byte"]]
    if len(columns["step"]):
        rows.append(["last training step", *_scores(columns["step"][-1], columns["loss"][-1], {})])
    shown = {"last validation": found[-1] if found else None, "best validation": history.best_validation}
    for name, one in shown.items():
        if one is not None:
            rows.append([name, *_scores(one["step"], one["loss"], one)])
    return rows


def _scores(step: float, loss: float, of: Mapping[str, Any]) -> list[str]:
    accuracy, bits = of.get("accuracy"), of.get("bits_per_byte")
    shown = ["" if accuracy is None else f"{accuracy:.3f}", "" if bits is None else f"{bits:.4f}"]
    return [f"{step:,.0f}", format_fixed(loss, 4), f"{perplexity(loss):.4g}", *shown]


def attempts(facts: RunFacts) -> Rows:
    """Each attempt, and how it ended."""
    rows = [["attempt", "begun", "ranks", "from step", "to step", "time", "ended", "why"]]
    history = facts.history
    for start in history.of("start"):
        number = start["attempt"]
        own = [event for event in history.events if event["attempt"] == number]
        begin = next((event for event in own if event["event"] == "begin"), None)
        end = next((event for event in reversed(own) if event["event"] == "end"), None)
        steps = [c["step"][c["attempt"] == number] for c in (history.columns, history.lost)]
        last = max([int(found.max()) for found in steps if len(found)], default=None)
        until = end["time"] if end else max(event["time"] for event in own)
        rows.append(
            [
                str(number),
                time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(start["time"])),
                str(start["world_size"]),
                "-" if begin is None else f"{begin['from_step']:,}",
                "-" if last is None else f"{last:,}",
                format_duration(until - start["time"]),
                end["class"] if end else "without a word, or still trained",
                end.get("reason", "") if end else "",
            ]
        )
    return rows


def all_attempts(runs: Sequence[RunFacts]) -> Rows:
    """Those of each run, with its goodput: the share of its time that went into steps that were kept."""
    tables = [(facts, attempts(facts)) for facts in runs]
    head = ["run", "goodput", *tables[0][1][0]]
    return [
        head,
        *(
            [facts.name, f"{facts.history.ledger.goodput:.1%}", *row]
            for facts, rows in tables
            for row in rows[1:]
        ),
    ]


def plan_against_measured(facts: RunFacts, samples: Sequence[Mapping[str, Any]]) -> Rows:
    """What was planned beside what was measured; a dash for what was not."""
    steady = samples[len(samples) // 2 :]
    memory = [line["memory_gb"] for line in samples if line.get("memory_gb")]
    mfu = [line["mfu"] for line in steady if line.get("mfu")]
    speed = [line["tokens_per_s"] for line in steady]
    per_step = facts.plan["flops_per_token"] * facts.plan["tokens_per_step"]
    step_s = [line["step_time_s"] for line in steady]
    world = facts.plan["batch"]["world_size"]
    rows = [["", "planned", "measured"]]
    rows.append(["memory of a device", size_text(facts.plan["peak_bytes"]), _max_memory(memory)])
    rows.append(["tokens", f"{facts.plan['total_tokens']:,}", f"{_tokens(samples):,}"])
    if speed:
        middle = float(np.median(speed))
        rows.append(
            ["tokens a second", "-", f"{format_count(middle)}, {format_count(middle / world)} a device"]
        )
        achieved = per_step / world / float(np.median(step_s)) / 1e12
        rows.append(["TFLOP a second and device", "-", f"{achieved:.3g}"])
        share = f"{float(np.median(mfu)):.1%}" if mfu else "unknown: the device's peak is not in the table"
        rows.append(["model FLOPs utilization", "-", share])
    return rows


def energy(facts: RunFacts) -> Rows:
    """Of each attempt and in all, as devices and nodes count it; with PUE and CO2 where those are given."""
    history, hardware = facts.history, facts.recipe.cluster.hardware
    rows, total = [["attempt", "kWh"]], 0.0
    for start in history.of("start"):
        line = history.last_line(start["attempt"])
        used = line.get("energy_kwh", None if line else 0.0)  # of an attempt without a step nothing is known
        if used is None:
            return [["", ""], ["energy", "not measured: a counter is missing, or may not be read"]]
        total += used
        rows.append([str(start["attempt"]), f"{used:.4g}"])
    rows.append(["all", f"{total:.4g}"])
    if hardware is not None:
        rows.append([f"from the grid, at a PUE of {hardware.pue:g}", f"{total * hardware.pue:.4g}"])
        if hardware.co2_g_per_kwh:
            rows.append(["kg CO2", f"{total * hardware.pue * hardware.co2_g_per_kwh / 1000:.4g}"])
    return rows


def _max_memory(found: Sequence[float]) -> str:
    return size_text(max(found) * 1e9) if found else "- (no GPU)"


def _tokens(samples: Sequence[Mapping[str, Any]]) -> int:
    return int(samples[-1]["tokens"]) if samples else 0


def time_spent(facts: RunFacts) -> Rows:
    """The goodput ledger."""
    ledger = facts.history.ledger
    rows = [[part, f"{s:,.1f} s", f"{share:.2%}"] for part, s, share in ledger.largest_first]
    return [["part", "time", "share"], *rows, ["all", f"{ledger.total_s:,.1f} s", ""]]


def spike_rows(spikes: Sequence[Spike]) -> Rows:
    """The largest jumps."""
    head = ["curve", "step", "before", "value", "usual jumps", "data step", "layer that grew most"]
    return [head, *(_spike(spike) for spike in spikes)]


def _spike(spike: Spike) -> list[str]:
    size = f"{spike.size:.3g}" if math.isfinite(spike.size) else "not finite"
    values = [format_fixed(value, 4) if value == value else "-" for value in (spike.before, spike.value)]
    data_step = "-" if spike.data_step is None else str(spike.data_step)
    return [spike.curve, f"{spike.step:,}", *values, size, data_step, spike.layer or "-"]


def traced(facts: RunFacts) -> Rows:
    """What a step's time was, on rank 0, when it was traced last; empty if it never was."""
    found = facts.history.of("trace")
    if not found:
        return []
    last = found[-1]
    rows = [[name, f"{1000 * seconds:,.2f} ms"] for name, seconds in last["per_step_s"].items()]
    return [["", f"a step, of {last['steps']} from {last['step']:,} on"], *rows]


def troubles(facts: RunFacts) -> Rows:
    """Updates that were not applied, rollbacks, checkpoints that were refused or could not be written."""
    rows = [["event", "step", "what"]]
    kinds = {
        "skipped": "update not applied",
        "rollback": "rolled back",
        "save_failed": "not saved",
        "gpu_error": "a GPU reports an error",
        "checkpoint_rejected": "checkpoint refused",
    }
    for event in facts.history.of(*kinds):
        known = {
            key: value for key, value in event.items() if key not in ("event", "time", "attempt", "step")
        }
        what = ", ".join(f"{key} {_plain(value)}" for key, value in known.items())
        rows.append([kinds[event["event"]], str(event.get("step", "-")), what])
    if facts.history.damaged:
        rows.append(["journal", "-", f"{facts.history.damaged} damaged line(s) passed over"])
    return rows


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def differences(runs: Sequence[RunFacts]) -> Rows:
    """The recipe's values in which runs differ, with what each has reached; best first."""
    flat = [_values(facts.recipe.model_dump(mode="json")) for facts in runs]
    keys = list(dict.fromkeys(key for values in flat for key in values))
    differ = [key for key in keys if len({values.get(key) for values in flat}) > 1]
    ranked = sorted(zip(runs, flat, strict=True), key=lambda pair: best_loss(pair[0]))
    head = ["run", *differ, "step", "training", "best validation", "tokens a second", "state"]
    rows = []
    for facts, values in ranked:
        columns, best = facts.history.columns, best_loss(facts)
        samples = facts.history.samples(200)
        speed = (
            np.median([line["tokens_per_s"] for line in samples[len(samples) // 2 :]]) if samples else None
        )
        rows.append(
            [
                facts.name,
                *(values.get(key, "-") for key in differ),
                f"{facts.history.step:,}/{facts.total:,}",
                format_fixed(float(columns["loss"][-1]), 4) if len(columns["loss"]) else "-",
                format_fixed(best, 4) if math.isfinite(best) else "-",
                "-" if speed is None else format_count(float(speed)),
                facts.state.split(" (attempt")[0],
            ]
        )
    return [head, *rows]


def best_loss(facts: RunFacts) -> float:
    """Lowest validation loss; infinite where there is none."""
    best = facts.history.best_validation
    return math.inf if best is None else float(best["loss"])
