"""`ckrm shrink`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ckrm_kernels.choices import Chooser
from ckrm_kernels.commands.shared import Device, interruptible, show, use_threads, wrong_use

if TYPE_CHECKING:
    from torch import Tensor, nn

_SEED = 0  # of example inputs where there are no others


def _shape(text: str) -> tuple[int, ...]:
    sizes = text.split("x")
    if not all(size.isdecimal() and int(size) for size in sizes):
        raise typer.BadParameter(f"must be the sizes of one input, such as 3x224x224, got {text}")
    return tuple(map(int, sizes))


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise typer.BadParameter(f"must be numbers such as 0.485,0.456,0.406, got {text}") from None


def shrink(
    network: Annotated[
        str,
        typer.Argument(
            metavar="NETWORK", help="module:constructor of the model, or the folder of `ckrm train` or `ckrm search`."
        ),
    ],
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The model's checkpoint, of a kind that `ckrm measure` reads.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Of several weights in the file: model, ema, or their key.")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="A folder of images, no labels needed, or a tensor (N, ...) in a file .npy, .pt or .safetensors; a "
            "run is calibrated with its own training part.",
        ),
    ] = None,
    input_shape: Annotated[
        Any, typer.Option(metavar="CxHxW", parser=_shape, help="Of one input; by default the calibration tensor's.")
    ] = None,
    mean: Annotated[
        Any, typer.Option(metavar="M,M,M", parser=_numbers, help="Taken from the calibration's pixels in [0, 1].")
    ] = None,
    deviation: Annotated[
        Any, typer.Option(metavar="D,D,D", parser=_numbers, help="What they are then divided by.")
    ] = None,
    images: Annotated[int, typer.Option(min=2, help="How many inputs of the calibration are used.")] = 256,
    parameters: Annotated[
        float | None, typer.Option(metavar="SHARE|N", help="The parameters left: a share up to 1, or a number.")
    ] = None,
    macs: Annotated[
        float | None, typer.Option(metavar="SHARE|N", help="The multiply-adds left: a share up to 1, or a number.")
    ] = None,
    latency: Annotated[
        float | None, typer.Option(metavar="SHARE", help="The time of a forward pass left, measured here: a share.")
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Instead: the relative error added in what reads each layer, such as 0.01.")
    ] = None,
    choose: Annotated[Chooser, typer.Option(help="Which filters leave.")] = "error",
    threshold: Annotated[float, typer.Option(help="Signed Psi above which filters repeat each other.")] = 0.6,
    round_to: Annotated[int, typer.Option(min=1, help="Widths that change are multiples of this.")] = 1,
    minimum: Annotated[
        float, typer.Option(metavar="N|SHARE", help="The least width of a layer: a number, or a share below 1.")
    ] = 1,
    ignore: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Layers that stay as they are, such as 'layer1.*'.")
    ] = None,
    which: Annotated[
        str | None, typer.Option(help="Of a search: one compared, such as standard; by default what it ended with.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of several trained alike, that of this seed; by default the first.")
    ] = None,
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where the small model and the report go.")] = Path(
        "runs/shrink"
    ),
    device: Device = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="CPU threads; by default torch's, or OMP_NUM_THREADS.")
    ] = None,
) -> None:
    """Shrink a trained model: fewer filters, proved, its weights refitted. Needs neither labels nor training.

    Writes the small model (model.safetensors, plan.json) and report.html. Without a budget, only what is redundant
    beyond doubt leaves. The same command again finds what is done.
    """
    options = {
        **_budget(parameters=parameters, macs=macs, latency=latency, tolerance=tolerance),
        **_options(choose, threshold, round_to, minimum, ignore or [], images),
    }
    of_run = _is_run(network)
    _check_fitting(
        of_run,
        {"--weights": weights, "--key": key, "--calibration": calibration, "--input-shape": input_shape},
        {"--mean": mean, "--deviation": deviation},
        {"--which": which, "--seed": seed},
    )
    use_threads(threads)
    with interruptible("run the same command again"):
        if of_run:
            source = _of_run(Path(network), which, seed, images)
        else:
            read = partial(_inputs, calibration, images, input_shape, mean, deviation)
            source = _of_constructor(network, weights, key, read)
        _shrink(source, options, output, device)


class _Source(NamedTuple):
    """What is shrunk: the model, what makes one like it, its inputs, and the lines of Python that load the result.

    score: gives the accuracy of such a model, where there are labels
    """

    model: nn.Module
    make: Callable[[], nn.Module]
    made_by: str
    examples: Tensor
    calibration: Tensor | None
    lines: tuple[str, ...]
    score: Callable[[nn.Module], float] | None = None


def _shrink(source: _Source, options: dict[str, Any], output: Path, device: str) -> None:
    from ckrm_kernels.shrinking.saved import load_shrunk
    from ckrm_kernels.shrinking.shrink_run import PAGE, TEXT, ShrinkRun, shrink_into
    from ckrm_kernels.shrinking.trained_runs import example_inputs
    from ckrm_kernels.shrinking.views.table import lines
    from ckrm_kernels.training import Runtime

    with wrong_use("--device"):
        there = Runtime(device=device).torch_device()
    calibration = None if source.calibration is None else source.calibration.to(there)
    examples = example_inputs(source.model, source.examples.to(there))
    run = ShrinkRun(output, source.model.to(there), source.made_by, examples, calibration, options)
    plan = shrink_into(run, source.make, progress=True)
    if plan is None:
        typer.echo(f"{output} holds this already, of the same settings:\n")
        typer.echo((output / TEXT).read_text(encoding="utf-8").rstrip())
    else:
        show(partial(lines, plan), sys.stdout)
    if source.score is not None:
        small = load_shrunk(source.make, output).to(there)
        scores = f"{source.score(run.model):.4f}, of the small model {source.score(small):.4f}"
        typer.echo(f"\naccuracy on the validation part: {scores}")
    typer.echo(f"\nwrote {output}: model.safetensors and plan.json, the small model; {PAGE}\nin Python:")
    for line in ("from ckrm_kernels import load_shrunk", *source.lines):
        typer.echo(f"    {line.replace('FOLDER', repr(str(output)))}")


def _of_constructor(
    path: str, weights: Path | None, key: str | None, read: Callable[[], tuple[Tensor, Tensor | None]]
) -> _Source:
    from ckrm_kernels.checkpoints import read_model
    from ckrm_kernels.checkpoints.into_model import constructor_of

    with wrong_use("NETWORK"):
        make = constructor_of(path)
    examples, calibration = read()
    if weights is not None:
        model, checkpoint = read_model(weights, make, weights=key)
        for note in checkpoint.notes:
            typer.echo(f"note: {note}", err=True)
    else:
        model = _with_weights_of_its_own(make, path)
    dtype = next((each.dtype for each in model.parameters() if each.is_floating_point()), examples.dtype)
    examples, calibration = examples.to(dtype), None if calibration is None else calibration.to(dtype)
    module, _, name = path.partition(":")
    lines = (f"from {module} import {name.partition('.')[0]}", f"model = load_shrunk({name}, FOLDER)")
    return _Source(model, make, path, examples, calibration, lines)


def _with_weights_of_its_own(make: Callable[[], nn.Module], path: str) -> nn.Module:
    """A model that is made with its trained weights; refuses one whose weights are drawn anew each time."""
    import torch
    from torch import nn

    from ckrm_kernels.shrinking.traceable import check_traceable

    first, second = make(), make()
    if not isinstance(first, nn.Module):
        raise typer.BadParameter(
            f"{path} must make a torch.nn.Module, got {type(first).__name__}", param_hint="NETWORK"
        )
    check_traceable(first)
    states = first.state_dict(), second.state_dict()
    if any(not torch.equal(states[0][name].nan_to_num(), states[1][name].nan_to_num()) for name in states[0]):
        raise typer.BadParameter(
            f"is needed: {path} makes a model with other weights each time", param_hint="--weights"
        )
    return first.eval()


def _inputs(
    calibration: Path | None,
    images: int,
    shape: tuple[int, ...] | None,
    mean: tuple[float, ...] | None,
    deviation: tuple[float, ...] | None,
) -> tuple[Tensor, Tensor | None]:
    """Example inputs, and those to calibrate with, if any."""
    import torch

    from ckrm_kernels.shrinking.calibration_files import read_calibration

    if calibration is not None:
        with wrong_use("--calibration"):
            read = read_calibration(
                calibration, images, input_shape=shape, mean=mean or (0.0,), deviation=deviation or (1.0,)
            )
        if len(read) < 2:
            raise typer.BadParameter(f"{calibration} must hold at least 2 inputs, got 1", param_hint="--calibration")
        return read[:2], read
    if shape is None:
        raise typer.BadParameter("is needed without --calibration, such as 3x224x224", param_hint="--input-shape")
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(_SEED)), None


def _of_run(folder: Path, which: str | None, seed: int | None, images: int) -> _Source:
    from rich.console import Console
    from rich.progress import track

    from ckrm_kernels.layer_elimination.chosen_data import images_of_network
    from ckrm_kernels.shrinking.trained_runs import data_of, some_images
    from ckrm_kernels.training import load
    from ckrm_kernels.training.evaluation import loss_and_accuracy

    trained = load(folder, which=which, seed=seed)
    chosen = images_of_network(trained.folder)
    if chosen is not None and chosen.task == "class-by-depth":
        raise ValueError(
            f"{trained.folder} is a CNN 3 of layer elimination: its images leave after different layers, which must "
            "keep one width; `ckrm eliminate --set network.width=8` trains a narrower one"
        )
    data = data_of(trained, partial(track, console=Console(stderr=True), transient=True), chosen)
    calibration = some_images(data.train, images)
    given = {"which": which, "seed": seed}
    arguments = "".join(f", {name}={value!r}" for name, value in given.items() if value is not None)
    lines = (
        "from ckrm_kernels.training import load",
        f"original, transform = load({str(folder)!r}{arguments})",
        "model = load_shrunk(original, FOLDER)",
    )

    def score(model: nn.Module) -> float:
        return loss_and_accuracy(model, data.validation)[1]

    return _Source(
        trained.model, trained.network.build, str(trained.folder), calibration[:2], calibration, lines, score
    )


def _is_run(network: str) -> bool:
    if Path(network).is_dir():
        return True
    if ":" not in network:
        raise typer.BadParameter(
            f"must be module:constructor, such as my_models:Net, or the folder of a run, got {network!r}",
            param_hint="NETWORK",
        )
    return False


def _check_fitting(of_run: bool, *given: dict[str, Any]) -> None:
    """Refuses what is for a constructor where a run is given, and the other way round."""
    *of_constructor, of_runs = given
    wrong = {name: value for each in of_constructor for name, value in each.items()} if of_run else of_runs
    for name, value in wrong.items():
        if value is not None:
            other = "module:constructor; a run has all that is needed" if of_run else "the folder of a run"
            raise typer.BadParameter(f"is for a NETWORK that is {other}", param_hint=name)
    if not of_run and "--calibration" in given[0] and given[0]["--calibration"] is None:
        for name, value in given[1].items():
            if value is not None:
                raise typer.BadParameter("is of no use without --calibration", param_hint=name)


def _budget(**budget: float | None) -> dict[str, Any]:
    """The one that is given, checked."""
    from ckrm_kernels.shrinking.budget import checked_budget

    given = {name: value for name, value in budget.items() if value is not None}
    for name in given:
        with wrong_use(f"--{name}"):
            checked_budget(**{other: value if other == name else None for other, value in budget.items()})
    with wrong_use(" / ".join(f"--{name}" for name in given)):
        checked_budget(**budget)
    return given


def _options(
    choose: Chooser, threshold: float, round_to: int, minimum: float, ignore: list[str], images: int
) -> dict[str, Any]:
    from ckrm_kernels.distribution import checked_threshold

    with wrong_use("--threshold"):
        checked_threshold(threshold, -1.0)
    if not 0 < minimum < 1 and (minimum < 1 or minimum != int(minimum)):
        raise typer.BadParameter(f"must be a whole number, or a share below 1, got {minimum:g}", param_hint="--minimum")
    least = minimum if minimum < 1 else int(minimum)
    options = {"choose": choose, "threshold": threshold, "round_to": round_to, "minimum": least, "images": images}
    return {**options, "ignore": ignore}
