"""Train several networks for the same time on the same windows, and score all of them in the same way.

From the folder ``bundle``:

    python ../benchmarks/compare_networks.py --dataset_dir DATA --validation_runs a,b --test_runs c,d \
        --budget_seconds 600 --seeds 0,1 --networks ours,unet,flexible_unet,segresnet,dynunet --output_dir OUT

Everything but the network comes from ``configs/train.json`` and ``configs/evaluate.json``: windows, targets,
augmentation, loss, optimizer, averaging, inference and picking. A seed gives every network the same windows in the same
order. The shape of the learning rate's schedule is the config's, stretched over the budget, so that each network sees
all of it. The clock runs while a batch is loaded and a step is made; it stands while data is prepared and scored.
Thresholds are fitted on the validation runs, and the test runs are scored with them.

On a machine with other work to do, let the processors' time count instead of the wall clock's, and take one thread:
``OMP_NUM_THREADS=1 python ... --clock processor``.

Every network starts from the same prior in its last convolution, and computes in whichever number format and memory
order gives it the fastest step on the machine. A run that ends writes ``OUT/<network>_seed<seed>.json`` and the tables
``OUT/comparison.md`` and ``OUT/comparison.csv``; a comparison that is started again goes on with the runs that are
missing. ``--only_table`` makes the tables of the results that are there.

``--settings`` takes other values for keys of ``train.json``, for all networks, such as
``--settings '{"tomogram_kind": "wbp"}'`` where a project has tomograms of several kinds. On a GPU, several processes
should draw windows, and start seldom: ``--settings '{"num_workers": 8, "windows_per_epoch": 4000}'``.
"""

from __future__ import annotations

import argparse
import csv
import gc
import hashlib
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from time import perf_counter, process_time
from typing import Any

import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.engines.utils import IterationEvents
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"
sys.path.insert(0, str(BUNDLE))

from scripts.atomic_files import require_writable, write_atomically  # noqa: E402
from scripts.datasets.runs import require_runs  # noqa: E402
from scripts.datasets.truth import list_labelled_runs  # noqa: E402
from scripts.errors import InputError, chain_of, find_input_error  # noqa: E402
from scripts.handlers.training_logs import loss_of  # noqa: E402
from scripts.inference.precision import number_format  # noqa: E402
from scripts.scoring.matching import MODES  # noqa: E402

CONFIGS = [BUNDLE / "configs" / name for name in ("train.json", "evaluate.json", "particles.json")]
TRAINING, EVALUATION = CONFIGS[:1], CONFIGS[:2]
PRIOR = 1e-3  # probability that every untrained network gives to a voxel
PROBE_SECONDS = 3.0
SLOW_SECONDS = 10.0  # longer than an accelerator needs to get ready
PROBE_SIDE = 32  # voxels; every network here can halve it as often as it wants

# The config of every network, and the number of voxels that the sides of its windows must be a multiple of. Ours stands
# in train.json and pads by itself.
THREE_DIMENSIONS = {"spatial_dims": 3, "in_channels": 1, "out_channels": "$len(@particles)"}
NETWORKS: dict[str, tuple[dict[str, Any] | None, int]] = {
    "ours": (None, 1),
    "unet": (
        {
            "_target_": "monai.networks.nets.UNet",
            **THREE_DIMENSIONS,
            "channels": [48, 64, 80, 80],
            "strides": [2, 2, 1],
            "num_res_units": 1,
        },
        4,
    ),
    "flexible_unet": (
        {
            "_target_": "monai.networks.nets.FlexibleUNet",
            **THREE_DIMENSIONS,
            "backbone": "resnet34",
            "pretrained": False,
        },
        32,
    ),
    "segresnet": ({"_target_": "monai.networks.nets.SegResNet", **THREE_DIMENSIONS, "init_filters": 16}, 8),
    "dynunet": (
        {
            "_target_": "monai.networks.nets.DynUNet",
            **THREE_DIMENSIONS,
            "kernel_size": [3, 3, 3, 3, 3],
            "strides": [1, 2, 2, 2, 2],
            "upsample_kernel_size": [2, 2, 2, 2],
        },
        16,
    ),
}
MEMORY_FORMATS = {"contiguous": "$torch.contiguous_format", "channels_last_3d": "$torch.channels_last_3d"}
FORMATS = [f"{precision}, {order}" for precision, order in product(("float32", "bfloat16"), MEMORY_FORMATS)]

# What the budget takes the place of, and what would only cost time on the clock.
HANDLERS_LEFT_OUT = {
    "LrScheduleHandler",
    "ValidationHandler",
    "TensorBoardStatsHandler",
    "scripts.handlers.training_logs.TrainingProgress",
    "scripts.handlers.training_logs.MetricsTable",
    "scripts.handlers.checkpoint.TrainingCheckpoint",
}
CLOCKS = {"wall": perf_counter, "processor": lambda: process_time() / torch.get_num_threads()}
FITTING = {
    "scripts.scoring.threshold_sweep.SweepThresholdsd",
    "scripts.handlers.thresholds.FitThresholds",
    "scripts.handlers.pages.WritePages",
}


@dataclass(frozen=True)
class Plan:
    """What all runs of a comparison have in common.

    Attributes:
        dataset_dir: the folder with all runs and their truth.
        validation_runs: names of the runs that thresholds are fitted on.
        test_runs: names of the runs that are scored; all others are trained on.
        budget_seconds: how long each network may train.
        output_dir: where the results stand.
        settings: keys of ``train.json`` that are to have another value, for every network.
        clock: one of `CLOCKS`.
    """

    dataset_dir: str
    validation_runs: tuple[str, ...]
    test_runs: tuple[str, ...]
    budget_seconds: float
    output_dir: Path
    settings: Mapping[str, Any]
    clock: str = "wall"

    def parser(self, files: Sequence[Path] = TRAINING, network: str = "ours", **settings: Any) -> ConfigParser:
        """Return the bundle's configs with a network and other settings put in.

        Raises:
            InputError: a setting is not in the configs.
        """
        parser = ConfigParser(globals={"comparable": comparable})
        parser.read_config([str(path) for path in files])
        fixed = {"bundle_root": str(BUNDLE), "dataset_dir": self.dataset_dir, "output_dir": str(self.output_dir)}
        for key, value in {**fixed, **self.settings, **settings}.items():
            if key not in parser:
                raise InputError(f"{key} is not a setting of {', '.join(path.name for path in files)}.")
            parser[key] = value
        definition, stride = NETWORKS[network]
        parser["compared"] = parser["network_def"] if definition is None else definition
        parser["network_def"] = f"$comparable(@compared, {stride})"
        return parser

    def conditions(self) -> dict[str, Any]:
        """Return what results must have in common to stand in one table, ready for JSON."""
        cuda = torch.cuda.is_available()
        return {
            "dataset_dir": str(Path(self.dataset_dir).resolve()),
            "validation_runs": list(self.validation_runs),
            "test_runs": list(self.test_runs),
            "budget_seconds": self.budget_seconds,
            "clock": self.clock,
            "settings": {key: value for key, value in self.settings.items() if key != "widths"},
            "configs_sha256": hashlib.sha256(b"".join(path.read_bytes() for path in CONFIGS)).hexdigest(),
            "device": torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads",
            "torch": torch.__version__,
        }

    def check(self) -> None:
        """Refuse what would only show after hours.

        Raises:
            InputError: a run is not there, stands in two places, or none is left to train on; or nothing can be
                written to ``output_dir``.
        """
        twice = sorted(set(self.validation_runs) & set(self.test_runs))
        if twice:
            raise InputError(f"{', '.join(twice)} cannot be both validation_runs and test_runs.")
        if not self.budget_seconds > 0:
            raise InputError(f"budget_seconds must be positive; got {self.budget_seconds}.")
        kind = self.settings.get("tomogram_kind")
        for names in (self.validation_runs, self.test_runs):
            require_runs(list_labelled_runs(self.dataset_dir, only=names, tomogram_kind=kind), self.dataset_dir)
        held_out = [*self.validation_runs, *self.test_runs]
        if not list_labelled_runs(self.dataset_dir, without=held_out, tomogram_kind=kind):
            raise InputError(f"{self.dataset_dir} holds no run beside {', '.join(held_out)} to train on.")
        require_writable(self.output_dir)


class PaddedNetwork(nn.Module):
    """A network that takes windows of any size: padded with zeros at the far end, the answer cropped back.

    Args:
        network: wants sides that are multiples of ``stride``.
        stride: in voxels.

    Shape:
        ``(B, C, Z, Y, X)`` -> ``(B, channels of the network, Z, Y, X)``.
    """

    def __init__(self, network: nn.Module, stride: int) -> None:
        super().__init__()
        self.network, self.stride = network, stride

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's answer."""
        depth, height, width = x.shape[2:]
        missing = [-size % self.stride for size in (depth, height, width)]
        if any(missing):
            x = F.pad(x, [0, missing[2], 0, missing[1], 0, missing[0]])
        return self.network(x)[:, :, :depth, :height, :width]


def comparable(network: nn.Module, stride: int) -> PaddedNetwork:
    """Return a network for windows of any size, which finds every voxel improbable before it is trained."""
    nn.init.constant_(head_bias(network), math.log(PRIOR / (1 - PRIOR)))
    return PaddedNetwork(network, stride)


def head_bias(network: nn.Module) -> nn.Parameter:
    """Return the bias of the last convolution, one number per species.

    It is known by what it does, whatever the network's parts are called: added to every voxel's logit as it is.
    """
    training = network.training
    logits = network.eval()(torch.zeros(1, 1, PROBE_SIDE, PROBE_SIDE, PROBE_SIDE))
    network.train(training)
    biases = [value for value in network.parameters() if value.shape == logits.shape[1:2]]
    gradients = torch.autograd.grad(logits.sum(), biases, allow_unused=True) if biases else []
    for bias, gradient in zip(biases, gradients, strict=True):
        if gradient is not None and torch.allclose(gradient, torch.tensor(float(logits[0, 0].numel())), rtol=1e-3):
            return bias
    raise ValueError(f"the last convolution of {type(network).__name__} needs a bias, for the prior")


class TrainingBudget:
    """Stop a training when its time is used up; until then the learning rate follows the share of it that is used.

    Args:
        seconds: how long the training may take.
        schedule: the learning rate's, as for a training of ``steps`` steps.
        steps: what is stretched over the whole budget.
        name: shown in the progress bar.
        now: the clock.
    """

    def __init__(
        self, seconds: float, schedule: LRScheduler, steps: int, name: str, now: Callable[[], float] = perf_counter
    ) -> None:
        self.seconds, self.schedule, self.steps, self.name, self.now = seconds, schedule, steps, name, now
        self.used, self.loss = 0.0, math.nan

    def attach(self, engine: Engine) -> None:
        """Join the start and every iteration; stands last, so that the clock stops after the others' work."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_STARTED, self.set_learning_rate)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.count)

    def start(self, engine: Engine) -> None:
        """Start the clock."""
        layout = "{desc}: {percentage:3.0f} % of " + f"{self.seconds:g} s" + " |{bar}| {postfix}"
        self.bar = tqdm(total=self.seconds, desc=self.name, bar_format=layout, leave=False)
        self.begun = self.now()

    def set_learning_rate(self, engine: Engine) -> None:
        """Take the learning rate of this moment."""
        share = min((self.now() - self.begun) / self.seconds, 1.0)
        self.schedule.last_epoch = share * self.steps  # type: ignore[assignment]  # a moment between two steps
        for group, rate in zip(self.schedule.optimizer.param_groups, self.schedule.get_lr(), strict=True):
            group["lr"] = rate

    def count(self, engine: Engine) -> None:
        """Note the step; end the training when the time is over."""
        self.loss = loss_of(engine.state.output)  # waits until an accelerator is done with the step
        self.used = self.now() - self.begun
        self.bar.set_postfix_str(f"step {engine.state.iteration}, loss {self.loss:.4f}", refresh=False)
        self.bar.update(min(self.used, self.seconds) - self.bar.n)
        if self.used >= self.seconds:
            self.bar.close()
            engine.terminate()


class TomogramTimes:
    """Note the seconds that the network and the picking take for every tomogram.

    Args:
        now: the clock.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.seconds: list[float] = []

    def attach(self, engine: Engine) -> None:
        """Join every tomogram after it was read, and after it was picked."""
        engine.add_event_handler(Events.ITERATION_STARTED, self.start)
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self.stop)

    def start(self, engine: Engine) -> None:
        """Start the clock."""
        self.begun = self.now()

    def stop(self, engine: Engine) -> None:
        """Note the time; picking has brought the answer to the CPU, so an accelerator is done."""
        self.seconds.append(self.now() - self.begun)


def build_networks(plan: Plan, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Build every network once; return its settings and its number of parameters.

    Raises:
        InputError: a network needs a package that is not there, or its settings are wrong.
    """
    facts: dict[str, dict[str, Any]] = {}
    for name in names:
        parser = plan.parser(network=name)
        try:
            network = parser.get_parsed_content("network_def")
        except (ImportError, RuntimeError) as error:  # MONAI wraps what a constructor raises
            causes = list(chain_of(error))
            missing = [cause for cause in causes if isinstance(cause, ImportError)]
            why = (
                f"needs a package that is not installed: {missing[0]}" if missing else f"cannot be built: {causes[-1]}"
            )
            raise InputError(f"the network {name} {why}. Leave it out of networks, or change that.") from error
        settings = {key: parser.get_parsed_content(f"compared#{key}") for key in parser["compared"]}
        parameters = sum(value.numel() for value in network.parameters())
        facts[name] = {"definition": json.loads(json.dumps(settings)), "parameters": parameters}
    return facts


def format_settings(chosen: str) -> dict[str, Any]:
    """Return the settings of ``train.json`` that one of `FORMATS` stands for."""
    precision, order = chosen.split(", ")
    return {"precision": precision, "memory_format": MEMORY_FORMATS[order]}


def probe(plan: Plan, name: str) -> dict[str, float]:
    """Return the seconds of a network's forward and backward pass on one batch, in each of `FORMATS`.

    Left out is bfloat16 on a device that only imitates it: slow beyond doubt.
    """
    native = number_format("auto", plan.parser().get_parsed_content("device")) == torch.bfloat16
    seconds: dict[str, float] = {}
    for chosen in FORMATS:
        if native or not chosen.startswith("bfloat16"):
            best = min(seconds.values(), default=math.inf)
            seconds[chosen] = seconds_of_step(
                plan.parser(network=name, **format_settings(chosen)), best, CLOCKS[plan.clock]
            )
    return seconds


def seconds_of_step(parser: ConfigParser, best: float, now: Callable[[], float] = perf_counter) -> float:
    """Return the best time of some steps on random windows.

    The first step is slower and does not count, unless it is so slow that ``best`` is out of reach.
    """
    parser.get_parsed_content("initialize")  # it decides, too, which kernels an accelerator may use
    network, loss, inferer, device = map(parser.get_parsed_content, ("network", "loss", "train#inferer", "device"))
    shape = parser.get_parsed_content("window_size")
    batch_size, species = parser.get_parsed_content("batch_size"), len(parser.get_parsed_content("particles"))
    windows = torch.rand(batch_size, 1, *shape, device=device)
    targets = (torch.rand(batch_size, species, *shape, device=device) < PRIOR).float()
    network.train()
    times: list[float] = []
    while len(times) < 2 or sum(times[1:]) < PROBE_SECONDS:
        begun = now()
        value = loss(inferer(windows, network), targets)
        value.backward()
        value.item()  # waits for an accelerator
        times.append(now() - begun)
        if times[0] > max(2 * best, SLOW_SECONDS):
            return times[0]
    return min(times[1:])


def train(plan: Plan, name: str, seed: int, chosen: str) -> tuple[nn.Module, dict[str, Any]]:
    """Train one network until its time is used up.

    Args:
        plan: the comparison.
        name: one of `NETWORKS`.
        seed: decides the first weights and the windows.
        chosen: one of `FORMATS`.

    Returns:
        The averaged weights' network, and what there is to say about the training.
    """
    parser = plan.parser(
        network=name,
        seed=seed,
        validation_runs=list(plan.validation_runs),
        excluded_runs=list(plan.test_runs),
        **format_settings(chosen),
    )
    parser["train#handlers"] = [
        item for item in parser["train#handlers"] if item["_target_"] not in HANDLERS_LEFT_OUT
    ]  # fmt: skip
    parser.get_parsed_content("initialize")
    trainer, schedule = parser.get_parsed_content("train#trainer"), parser.get_parsed_content("lr_scheduler")
    trainer.state.max_epochs = sys.maxsize  # the budget decides
    budget = TrainingBudget(
        plan.budget_seconds,
        schedule,
        parser.get_parsed_content("steps"),
        f"{name}, seed {seed}, {chosen}",
        CLOCKS[plan.clock],
    )
    budget.attach(trainer)
    trainer.run()
    steps = trainer.state.iteration
    facts = {
        "steps": steps,
        "training_seconds": budget.used,
        "seconds_per_step": budget.used / steps,
        "last_loss": budget.loss,
    }
    return parser.get_parsed_content("averaged"), facts


def fit_and_score(plan: Plan, network: nn.Module, chosen: str, folder: Path) -> dict[str, Any]:
    """Fit thresholds on the validation runs, and score the test runs with them.

    Args:
        plan: the comparison.
        network: already trained.
        chosen: one of `FORMATS`.
        folder: where ``validation`` and ``test`` are made.

    Returns:
        The thresholds, the scores by mode and species, and the seconds per tomogram.
    """
    names = plan.parser().get_parsed_content("particles").names
    neutral = dict.fromkeys(names, 0.5)  # stays where there is too little to fit; the shipped ones were fitted for ours
    evaluate(plan, network, chosen, plan.validation_runs, neutral, folder / "validation", fit=True)
    thresholds = json.loads((folder / "validation" / "thresholds.json").read_text())
    times = evaluate(plan, network, chosen, plan.test_runs, thresholds, folder / "test", fit=False)
    return {
        "thresholds": thresholds,
        "scores": read_scores(folder / "test" / "scores.csv"),
        "seconds_per_tomogram": fmean(times),
    }


def evaluate(
    plan: Plan,
    network: nn.Module,
    chosen: str,
    runs: Sequence[str],
    thresholds: Mapping[str, float],
    folder: Path,
    fit: bool,
) -> list[float]:
    """Pick and score some runs with the bundle's evaluation; return the seconds of every tomogram.

    Args:
        plan: the comparison.
        network: already trained.
        chosen: one of `FORMATS`.
        runs: names.
        thresholds: by species.
        folder: takes ``scores.csv``, and ``thresholds.json`` where they are fitted.
        fit: look for better thresholds, which takes time.
    """
    parser = plan.parser(
        EVALUATION,
        validation_runs=list(runs),
        probability_thresholds=dict(thresholds),
        output_dir=str(folder),
        **format_settings(chosen),
    )
    parser.globals["trained"] = network
    parser["network_def"] = "$trained"
    if not fit:
        for key in ("validate#postprocessing#transforms", "validate#handlers"):
            parser[key] = [item for item in parser[key] if item["_target_"] not in FITTING]
    evaluator, times = parser.get_parsed_content("validate#evaluator"), TomogramTimes(CLOCKS[plan.clock])
    times.attach(evaluator)
    evaluator.run()
    return times.seconds


def read_scores(path: Path) -> dict[str, dict[str, float]]:
    """Return the F4 of a table of scores by mode and species, with ``total`` among the species."""
    scores: dict[str, dict[str, float]] = {mode: {} for mode in MODES}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            scores[row["mode"]][row["species"]] = float(row["f4"])
    return scores


def result_path(plan: Plan, name: str, seed: int) -> Path:
    """Return where the result of a run stands."""
    return plan.output_dir / f"{name}_seed{seed}.json"


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Return the results in a folder, in the order of `NETWORKS` and of their seeds."""
    found = [json.loads(path.read_text()) for name in NETWORKS for path in folder.glob(f"{name}_seed*.json")]
    return sorted(found, key=lambda result: (list(NETWORKS).index(result["network"]), result["seed"]))


def check_results(results: Sequence[Mapping[str, Any]], wanted: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Refuse to put results into one table that cannot be compared.

    Args:
        results: of earlier runs.
        wanted: the conditions of this comparison.
        facts: of the networks of this comparison, see `build_networks`.

    Raises:
        InputError: a result was made under other conditions, or with other settings of its network.
    """
    for result in results:
        name = result["network"]
        pairs = [(key, result["conditions"].get(key), value) for key, value in wanted.items()]
        if name in facts:
            pairs.append(("definition", result["definition"], facts[name]["definition"]))
        for key, before, now in pairs:
            if before != now:
                raise InputError(
                    f"the result of {name}, seed {result['seed']}, was made with {key} {before}, now it is {now}: set "
                    "another output_dir, or delete that result."
                )


def run_all(plan: Plan, names: Sequence[str], seeds: Sequence[int]) -> None:
    """Make the results that are missing, one seed after the other, and the tables after every one."""
    plan.check()
    conditions, facts = json.loads(json.dumps(plan.conditions())), build_networks(plan, names)
    check_results(read_results(plan.output_dir), conditions, facts)
    for seed, name in product(seeds, names):
        path = result_path(plan, name, seed)
        if path.exists():
            print(f"{name}, seed {seed}: {path} is there", flush=True)
            continue
        earlier = [result["probe"] for result in read_results(plan.output_dir) if result["network"] == name]
        seconds = earlier[0] if earlier else probe(plan, name)
        chosen = min(seconds, key=lambda entry: seconds[entry])
        network, training = train(plan, name, seed, chosen)
        scored = fit_and_score(plan, network, chosen, path.with_suffix(""))
        result = {
            "network": name,
            "seed": seed,
            "format": chosen,
            "probe": seconds,
            **facts[name],
            **training,
            **scored,
        }
        with write_atomically(path) as file:
            file.write(json.dumps({**result, "conditions": conditions}, indent=4) + "\n")
        total = result["scores"][MODES[0]]["total"]
        print(f"{name}, seed {seed}, {chosen}: {result['steps']} steps, F4 {total:.4f}", flush=True)
        write_tables(plan.output_dir)
        del network
        gc.collect()  # a trainer and its handlers hold each other, and with them the accelerator's memory


def summarise(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per network: means over its seeds, and half the range of the totals."""
    rows = []
    for name in dict.fromkeys(result["network"] for result in results):
        own = [result for result in results if result["network"] == name]
        row: dict[str, Any] = {"network": name, "seeds": len(own), "parameters": own[0]["parameters"]}
        row["steps"] = fmean(result["steps"] for result in own)
        for mode in MODES:
            totals = [result["scores"][mode]["total"] for result in own]
            row |= {f"f4_{mode}": fmean(totals), f"f4_{mode}_half_range": (max(totals) - min(totals)) / 2}
        for species in own[0]["thresholds"]:
            row[f"f4_{species}"] = fmean(result["scores"][MODES[0]][species] for result in own)
        for key in ("seconds_per_step", "seconds_per_tomogram"):
            row[key] = fmean(result[key] for result in own)
        row["precision"], row["memory_format"] = own[0]["format"].split(", ")
        rows.append(row)
    return rows


def write_tables(folder: Path) -> None:
    """Write ``comparison.md`` and ``comparison.csv`` of the results in a folder.

    Raises:
        InputError: there are none, or they were made under different conditions.
    """
    results = read_results(folder)
    if not results:
        raise InputError(f"{folder} holds no result of {', '.join(NETWORKS)}.")
    definitions = {result["network"]: {"definition": result["definition"]} for result in reversed(results)}
    check_results(results, results[0]["conditions"], definitions)
    rows = summarise(results)
    with write_atomically(folder / "comparison.csv") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    with write_atomically(folder / "comparison.md") as file:
        file.write(format_page(rows, list(results[0]["thresholds"]), results[0]["conditions"]))


def format_page(rows: Sequence[Mapping[str, Any]], species: Sequence[str], conditions: Mapping[str, Any]) -> str:
    """Return the table as Markdown, with the conditions above it."""
    validation, test = (", ".join(conditions[key]) for key in ("validation_runs", "test_runs"))
    text = (
        f"Each network trained for {conditions['budget_seconds']:g} s ({conditions['clock']} clock) on "
        f"{conditions['device']}. Thresholds fitted on {validation}, scored on {test}: mean over the seeds ± half "
        f"their range; F4 of a species in mode {MODES[0]}.\n"
    )
    head = ["network", "parameters", "seeds", "steps", *(f"F4 ({mode})" for mode in MODES), *species]
    lines = [[*head, "s per step", "s per tomogram", "format"]]
    for row in rows:
        spread = [f"± {row[f'f4_{mode}_half_range']:.3f}" if row["seeds"] > 1 else "" for mode in MODES]
        totals = [f"{row[f'f4_{mode}']:.3f} {half}".strip() for mode, half in zip(MODES, spread, strict=True)]
        line = [row["network"], f"{row['parameters'] / 1e6:.1f} M", str(row["seeds"]), f"{row['steps']:.0f}", *totals]
        line += [f"{row[f'f4_{name}']:.3f}" for name in species]
        line += [f"{row['seconds_per_step']:.3g}", f"{row['seconds_per_tomogram']:.3g}"]
        lines.append([*line, f"{row['precision']}, {row['memory_format']}"])
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join([text, *(f"| {' | '.join(line)} |" for line in lines)]) + "\n"


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description="Compare networks that were trained for the same time.")
    parser.add_argument("--dataset_dir", help="the folder with tomograms and truth")
    parser.add_argument("--validation_runs", help="runs to fit thresholds on, with commas between")
    parser.add_argument("--test_runs", help="runs to score; all others are trained on")
    parser.add_argument("--budget_seconds", type=float, help="how long each network may train")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="whose seconds count (default: %(default)s)")
    parser.add_argument("--seeds", default="0", help="whole numbers with commas between (default: %(default)s)")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="out of, and by default: %(default)s")
    parser.add_argument("--widths", help="of our network: a preset, or numbers with commas (default: train.json's)")
    parser.add_argument("--settings", default="{}", help="JSON: keys of train.json with other values, for all networks")
    parser.add_argument("--output_dir", required=True, help="where the results stand")
    parser.add_argument("--only_table", "--only-table", action="store_true", help="train nothing, make the tables")
    options = parser.parse_args(arguments)
    needed = ("dataset_dir", "validation_runs", "test_runs", "budget_seconds")
    missing = [f"--{name}" for name in needed if getattr(options, name) is None]
    if missing and not options.only_table:
        parser.error(f"{', '.join(missing)} missing")
    return options


def plan_of(options: argparse.Namespace) -> Plan:
    """Return what the command line asks for.

    Raises:
        InputError: the settings are no JSON object.
    """
    try:
        settings = json.loads(options.settings)
    except ValueError as error:
        raise InputError(f"settings is not valid JSON: {error}.") from error
    if not isinstance(settings, dict):
        raise InputError(f"settings must be a JSON object of keys of train.json; got {options.settings}.")
    if options.widths:
        parts = options.widths.split(",")
        settings["widths"] = [int(part) for part in parts] if parts[0].isdigit() else options.widths
    validation, test = (tuple(value.split(",")) for value in (options.validation_runs, options.test_runs))
    folder = Path(options.output_dir)
    return Plan(options.dataset_dir, validation, test, options.budget_seconds, folder, settings, options.clock)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    options = read_arguments(arguments)
    try:
        if not options.only_table:
            names, seeds = options.networks.split(","), [int(seed) for seed in options.seeds.split(",")]
            unknown = sorted(set(names) - set(NETWORKS))
            if unknown:
                raise InputError(f"unknown network {', '.join(unknown)}; known are {', '.join(NETWORKS)}.")
            run_all(plan_of(options), names, seeds)
        write_tables(Path(options.output_dir))
    except (InputError, RuntimeError) as error:  # MONAI wraps what its components raise
        found = find_input_error(error)
        if found is None:
            raise
        print(f"error: {found}", file=sys.stderr)
        return 1
    print((Path(options.output_dir) / "comparison.md").read_text(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
