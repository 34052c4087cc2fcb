"""`omnisky train WHAT`: codecs, tokens of the simulated sky, the transformer; and AstroCLIP. All go on where they stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.console import Json, Verbose, follow, one_sentence

app = typer.Typer(
    no_args_is_help=True,
    help="Train a model, step by step. Run the same command again to go on from the last checkpoint.\n\n"
    "From nothing: `train codec` for image, spectrum, segmap and scalars, then `train tokens`, then `train omni`. "
    "On your own survey: `omnisky tokenize SKY --model CODECS` takes the place of `train tokens`.",
)

Codecs = Annotated[Path, typer.Option(help="Folder of the codecs.")]
CODECS = Path("runs/codecs")


def _known(name: str, known: Any, hint: str) -> None:
    if name not in known:
        raise typer.BadParameter(f"{name!r} is not one we know; choose one of {', '.join(known)}", param_hint=hint)


@app.command(epilog="Example: omnisky train codec image --out runs/codecs")
def codec(
    kind: Annotated[str, typer.Argument(help="image, spectrum, segmap or scalars.")],
    recipe: Annotated[str, typer.Option(help="demo, or tiny for a first try.")] = "demo",
    out: Annotated[Path, typer.Option(help="Folder that all codecs go to; this run has a folder in it.")] = CODECS,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Train a codec on the simulated sky, noisy in and clean out; how good it is ends up in OUT/KIND/figures.json."""
    from engine.train import codecs
    from engine.train.codec_folder import gather
    from engine.train.codec_recipes import RECIPES

    _known(recipe, RECIPES, "--recipe")
    _known(kind, RECIPES[recipe], "KIND")
    with one_sentence():
        follow(codecs.run(kind, out / kind, recipe), json, curve="loss")  # type: ignore[arg-type]
        gather({kind: out / kind}, out)


@app.command(epilog="Example: omnisky train tokens runs/tokens --codecs runs/codecs --objects 60000")
def tokens(
    out: Annotated[Path, typer.Argument(help="Folder for the tokens; `train omni --sky` reads it.")],
    codecs: Codecs = CODECS,
    objects: Annotated[int, typer.Option(min=1, help="How many objects of the simulated sky.")] = 60_000,
    seed: Annotated[int, typer.Option(help="Another seed is another sky; codecs saw that of 11.")] = 12,
    sdss: Annotated[bool, typer.Option("--sdss", help="Only of objects that SDSS took a spectrum of, a quarter.")] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Render the simulated sky and keep its tokens alone."""
    from engine.train.simulated_tokens import build

    with one_sentence():
        follow(build(codecs, out, objects, seed, sdss=sdss), json)


@app.command(epilog="Example: omnisky train omni --recipe small --sky runs/tokens --codecs runs/codecs")
def omni(
    sky: Annotated[list[Path], typer.Option(help="A sky with tokens, or a folder of `train tokens`; may be given repeatedly.")],
    codecs: Codecs = CODECS,
    recipe: Annotated[str, typer.Option(help="Size and schedule: tiny, small, base, large or xlarge.")] = "small",
    out: Annotated[Path | None, typer.Option(help="Folder of the run; without it, runs/omni-RECIPE.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Another number of steps than the recipe's.")] = None,
    pieces: Annotated[int | None, typer.Option(min=1, help="Cut each batch into so many, for less memory.")] = None,
    recompute: Annotated[bool, typer.Option("--recompute", help="Compute blocks twice, for less memory.")] = False,
    start: Annotated[Path | None, typer.Option("--begin", help="Begin with the weights of this model, and its sizes.")] = None,
    rate: Annotated[float | None, typer.Option(min=1e-8, help="Another highest learning rate than the recipe's.")] = None,
    inputs: Annotated[list[int] | None, typer.Option(min=1, help="How many tokens a batch reads; given repeatedly, one of them "
                                                     "is drawn.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Objects a step.")] = None,
    compiled: Annotated[bool, typer.Option("--compiled", help="Compile the blocks, on a GPU; takes a minute at the start.")
                        ] = False,
    average: Annotated[float | None, typer.Option(min=0, max=1, help="What averaged weights keep of themselves in a step; "
                                                  "few steps need less than .999.")] = None,
    part: Annotated[str | None, typer.Option(help="What is trained: all, or decoder, which leaves vectors and a head "
                                             "for search as they are.")] = None,
    placed: Annotated[int | None, typer.Option(min=0, help="In so many last blocks of the decoder a head looks where it is "
                                               "asked from the start, for translations of spectra.")] = None,
    translate: Annotated[list[str] | None, typer.Option(help="A translation to train as a whole, and in which share of the "
                                                        "objects: tok_spectrum_sdss+tok_image>tok_spectrum_desi=0.1; may be "
                                                        "given repeatedly.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of torch, on a CPU.")] = None,
    split: Annotated[str | None, typer.Option(help="Hold out rows, or whole pieces of sky: rows or positions.")] = None,
    pair: Annotated[str | None, typer.Option(help="Read rows of one object as one: those within so many arcsec (try 1), "
                                             "or 'id' where all skies share their ids.")] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Train the masked multimodal transformer on stored tokens; OUT/model is the result, with its codecs."""
    from engine.train import omni as training
    from engine.train.omni_recipes import RECIPES, chosen

    _known(recipe, RECIPES, "--recipe")
    how = _how(pair)
    given = {"steps": steps, "pieces": pieces, "recompute": recompute or None, "split": split, "rate": rate,
             "threads": threads, "batch": batch, "average": average,
             "part": part, "compiled": compiled or None,
             "placed": placed}
    with one_sentence():
        asked = chosen(recipe, **{name: value for name, value in given.items() if value is not None})
        if inputs:
            asked = replace(asked, budgets=replace(asked.budgets, inputs=tuple(inputs)))
        if translate:
            asked = replace(asked, budgets=replace(asked.budgets, translations=tuple(_translation(one) for one in translate)))
        follow(training.run(asked, sky, codecs, out or Path("runs") / f"omni-{recipe}", how, start), json, curve="loss")


def _translation(text: str) -> tuple[tuple[str, ...], str, float]:
    """What is read, what is asked for, and the share of the objects."""
    try:
        pair, share = text.rsplit("=", 1)
        sources, target = pair.split(">")
        return tuple(sources.split("+")), target, float(share)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not of the form A+B>C=SHARE", param_hint="--translate") from None


def _how(pair: str | None) -> Any:
    """How rows are paired: a radius in arcsec, "id" or None."""
    if pair in (None, "id"):
        return pair
    try:
        return float(pair or "")
    except ValueError:
        raise typer.BadParameter(f"{pair!r} is neither a radius in arcsec nor id", param_hint="--pair") from None


@app.command(epilog="Example: omnisky train head runs/tokens --model runs/omni-small/model")
def head(
    tokens: Annotated[Path, typer.Argument(help="A folder of `train tokens`.", metavar="TOKENS")],
    model: Annotated[Path, typer.Option(help="Folder of the model; the head becomes a part of it.")],
    pairs: Annotated[int, typer.Option(min=500, help="Objects to take at most.")] = 8000,
    seed: Annotated[int, typer.Option(help="Another seed holds out other pairs.")] = 0,
    last: Annotated[bool, typer.Option("--last", help="Keep the head that the model has, and fit its last layers alone.")
                    ] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Make a model's image and spectrum vectors comparable for all its users; for your own sky alone, see `omnisky align`."""
    from engine import checkpoints
    from engine.align import align_tokens
    from engine.train import last_layers

    with one_sentence():
        bundle = checkpoints.load(model)
        if not isinstance(bundle, checkpoints.OmniBundle):
            raise ValueError(f"{model} needs no head: its vectors are comparable")
        steps = last_layers.run(model, [tokens], pairs, seed) if last else align_tokens(tokens, bundle, pairs, seed)
        follow(steps, json, curve="loss")


@app.command(epilog="Example: omnisky train calibration runs/tokens --model runs/omni-small/model")
def calibration(
    tokens: Annotated[Path, typer.Argument(help="A folder of `train tokens` that the model was not trained on.",
                                           metavar="TOKENS")],
    model: Annotated[Path, typer.Option(help="Folder of the model; the result goes into its config.json.")],
    objects: Annotated[int, typer.Option(min=100, help="Of each choice of inputs at most.")] = 4000,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Make a model as sure of the redshifts that it tells as it may be."""
    from engine.train import calibration as fitting

    with one_sentence():
        follow(fitting.run(model, tokens, objects), json)


def _astroclip(recipe: str) -> Any:
    def train(
        out: Annotated[Path | None, typer.Option(help="Folder of the run; without it, one in runs/.")] = None,
        json: Json = False,
        verbose: Verbose = False,
    ) -> None:
        from engine.train import run

        with one_sentence():
            follow(run(recipe, out or Path("runs") / recipe), json, curve="loss")

    return train


for name, what in {"astroclip-demo": "Train the small AstroCLIP on the simulated sky; OUT/model is the result.",
                   "tiny": "The same in seconds, to see it run."}.items():
    app.command(name, help=what, epilog=f"Example: omnisky train {name}")(_astroclip(name))
