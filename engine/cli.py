"""`omnisky VERB`: from survey files to a sky with vectors, maps and an index, and questions to it."""

from __future__ import annotations

import json as jsonlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine import __version__, cli_train
from engine.console import DATA_ERROR, USAGE_ERROR, Json, Verbose, follow, one_sentence, report, table

if TYPE_CHECKING:
    from engine.search import Neighbours
    from engine.sky import Sky
    from engine.steps import Step

SAID = 20  # lines shown of what codecs had to say

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A foundation model of the sky in an astronomer's hands.\n\n"
    "Your own files: `omnisky ingest my.sky FILES`, then `embed`, `map` and `index`. "
    "Long work can be stopped with Ctrl-C at any time; the same command goes on.",
)
app.add_typer(cli_train.app, name="train")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"omnisky {__version__}")
        raise typer.Exit


SkyFolder = Annotated[Path, typer.Argument(help="The sky: a folder that ends in .sky by custom.", metavar="SKY")]
Model = Annotated[Path | None, typer.Option(help="Folder of the model; without it, the one that is shipped.")]
Inputs = Annotated[str | None, typer.Option(help="Token keys such as tok_image,tok_z: what the model reads of an object.")]
Fast = Annotated[bool, typer.Option("--fast", help="Tokens in half the time, some 7 of 100 inexact; exact ones stay.")]


@app.callback()
def options(
    verbose: Verbose = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    logging.basicConfig(format="%(name)s: %(message)s")


@app.command(epilog="Example: omnisky ingest my.sky ~/survey/cutouts ~/survey/spectra --survey legacy")
def ingest(
    sky: SkyFolder,
    files: Annotated[list[Path], typer.Argument(help="Files and folders (searched recursively) to read.")],
    survey: Annotated[str | None, typer.Option(help="The survey they come from, where the files do not say it.")] = None,
    lossless: Annotated[bool, typer.Option("--lossless", help="Keep every bit of the pixels (skies grow 3-4 times).")] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Read survey files into a sky. Run again to go on or to add files; a file read twice is stored once."""
    from engine import jobs
    from engine.io.surveys import SURVEYS

    if survey is not None and survey not in SURVEYS:
        known = ", ".join(SURVEYS)
        raise typer.BadParameter(f"{survey!r} is not a survey we know; choose one of {known}", param_hint="--survey")
    missing = [str(f) for f in files if not f.exists()]
    if missing:
        raise typer.BadParameter(f"no such file or folder: {', '.join(missing)}; the sky comes first, then its files",
                                 param_hint="FILES")
    with one_sentence():
        outcome = follow(jobs.ingest(sky, files, survey=survey, lossless=lossless), json)
    bad = (outcome.preview or {}).get("bad", []) if outcome else []
    for path, sentence in bad:
        typer.echo(sentence if str(path) in sentence else f"{path}: {sentence}", err=True)
    if bad:
        raise typer.Exit(DATA_ERROR)


@app.command(epilog="Example: omnisky simulate demo.sky --objects 1000 --seed 7")
def simulate(
    sky: SkyFolder,
    objects: Annotated[int, typer.Option(min=1, help="How many objects there shall be.")] = 3000,
    seed: Annotated[int | None, typer.Option(help="Another seed is another sky.")] = None,
    model: Model = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Make the simulated survey: images, spectra and catalogue of known truth, embedded, mapped and indexed."""
    from engine import jobs

    with one_sentence():
        follow(jobs.demo(sky, objects, seed, model), json)


@app.command(epilog="Example: omnisky tokenize my.sky --model ~/models/aion-base")
def tokenize(
    sky: SkyFolder,
    model: Annotated[Path, typer.Option(help="Folder of a model of AION-1's kind with its codecs, or of codecs alone.")],
    inputs: Inputs = None,
    fast: Fast = False,
    copies: Annotated[int, typer.Option(min=0, max=7, help="Tokens of so many turned copies, too, for training.")] = 0,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Turn every object into tokens, once: embedding and training start from them. Without --inputs, all the model knows."""
    from engine import jobs

    with one_sentence():
        _say(follow(jobs.tokenize(sky, model, _keys(inputs), fast, copies), json))


@app.command(epilog="Example: omnisky embed my.sky --model ~/models/aion-base --inputs tok_image,tok_spectrum_desi")
def embed(
    sky: SkyFolder,
    model: Annotated[Path | None, typer.Option(help="Folder of the model; without it, the one that made the vectors that are "
                                               "there, for a sky without any the one that is shipped.")] = None,
    inputs: Inputs = None,
    space: Annotated[str, typer.Option(help="With --inputs: the name of the space made of them.")] = "joint",
    pool: Annotated[str, typer.Option(help="With --inputs: balanced (every modality counts the same) or mean.")] = "balanced",
    fast: Fast = False,
    patches: Annotated[bool, typer.Option("--patches", help="Store patch vectors, too: 54 kB an object.")] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Give every object that has none yet its vectors. Those of another model are made anew."""
    from engine import jobs

    if pool not in ("balanced", "mean"):
        raise typer.BadParameter(f"{pool!r} is no way to pool; choose balanced or mean", param_hint="--pool")
    with one_sentence():
        _say(follow(jobs.embed(sky, model, _keys(inputs), space, pool, fast or None, patches), json))  # type: ignore[arg-type]


def _keys(inputs: str | None) -> list[str] | None:
    return None if inputs is None else [key.strip() for key in inputs.split(",") if key.strip()]


def _say(outcome: Step | None) -> None:
    """What codecs had to say of some objects, the first lines of it."""
    said = (outcome.preview or {}).get("warnings", []) if outcome else []
    for line in said[:SAID]:
        typer.echo(line, err=True)
    if len(said) > SAID:
        typer.echo("... and more of this kind (--json lists a thousand)", err=True)


@app.command(epilog="Example: omnisky align my.sky --model ~/models/aion-base")
def align(
    sky: SkyFolder,
    model: Annotated[Path, typer.Option(help="Folder of a model of AION-1's kind.")],
    pairs: Annotated[int, typer.Option(min=500, help="Objects with an image and a spectrum to take at most.")] = 4000,
    seed: Annotated[int, typer.Option(help="Another seed holds out other pairs.")] = 0,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Make the model's image and spectrum vectors comparable, from at least 500 objects that have both. Then embed again."""
    from engine import jobs

    with one_sentence():
        follow(jobs.align(sky, model, pairs, seed), json, curve="loss")


@app.command(epilog="Example: omnisky index my.sky")
def index(sky: SkyFolder, json: Json = False, verbose: Verbose = False) -> None:
    """Bring the search index of every space up to date (exact below 200,000 objects, an inverted file above)."""
    from engine import jobs

    with one_sentence():
        follow(jobs.index(sky), json)


@app.command("map", epilog="Example: omnisky map my.sky --space image --kind umap")
def map_(
    sky: SkyFolder,
    space: Annotated[str | None, typer.Option(help="Only of this space, such as image or spectrum.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only of this kind: umap or pca.")] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Lay the objects out in the plane by what they look like. Newcomers are placed on the maps that are there."""
    from engine import jobs

    if kind not in (None, *jobs.KINDS):
        raise typer.BadParameter(f"{kind!r} is not a kind of map; choose {' or '.join(jobs.KINDS)}", param_hint="--kind")
    with one_sentence():
        follow(jobs.map(sky, space, kind), json)


@app.command(epilog="Example: omnisky near my.sky demo-000005 --query image --among spectrum -k 12")
def near(
    sky: SkyFolder,
    object: Annotated[str, typer.Argument(help="Its id, its row, or a position such as '150.118 2.205' or 'J100028+021221'.")],
    query: Annotated[str, typer.Option(help="What of it to compare: image or spectrum.")] = "image",
    among: Annotated[str, typer.Option(help="With what of the others.")] = "spectrum",
    k: Annotated[int, typer.Option("-k", min=1, help="How many neighbours.")] = 8,
    radius: Annotated[float, typer.Option(min=0, help="Objects this close on the sky, in arcsec, are the same thing.")] = 5.0,
    all_: Annotated[bool, typer.Option("--all", help="Keep the same thing seen twice.")] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List the objects that resemble one most, across images and spectra."""
    import engine

    with one_sentence():
        opened = engine.open(sky)
        id = _id(opened, object)
        found = opened.near(id, query, among, k, None if all_ else radius)
        _answer(opened, id, found, json)


def _id(sky: Sky, text: str) -> str:
    """The id that a text means. Raises KeyError with what the text was read as, if that leads to no object."""
    found = sky.find(text)
    if found is None or found.id is None:
        raise KeyError(f"no object is called {text!r} in {sky.path}" + (f" ({found.reading})" if found else ""))
    return found.id


def _answer(sky: Sky, id: str, found: Neighbours, json: bool) -> None:
    columns = {name: sky.column(name)[list(found.rows)].tolist() for name in ("ra", "dec", "z") if name in sky.columns}
    neighbours = [{"id": name, "row": row, "similarity": round(similarity, 4)} for name, row, similarity in found]
    for i, entry in enumerate(neighbours):
        entry |= {name: values[i] for name, values in columns.items() if values[i] == values[i]}  # a NaN is left out
    if json:
        typer.echo(jsonlib.dumps({"id": id, "dropped": found.dropped, "neighbours": neighbours}))
        return
    typer.echo(table(neighbours, {"similarity": ".3f", "ra": ".5f", "dec": "+.5f", "z": ".4f"}))
    if found.dropped:
        typer.echo(f"{found.dropped} left out as the same thing seen again (--all keeps them)", err=True)


@app.command(epilog="Example: omnisky evaluate --model runs/omni-small/model --objects 500 --json")
def evaluate(
    shipped: Annotated[str | None, typer.Argument(help="demo: the shipped model, as without it.", metavar="[demo]")] = None,
    model: Model = None,
    objects: Annotated[int, typer.Option(min=100, help="Test objects, none of which was ever trained on.")] = 1000,
    database: Annotated[int | None, typer.Option(min=100, help="Further objects with known redshifts.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sky they are taken from.")] = 2027,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Measure a model on a simulated sky of its own, beside plain baselines (takes some minutes)."""
    from engine import evaluate as tables

    if shipped not in (None, "demo") or (shipped and model):
        raise typer.BadParameter("evaluate demo, or evaluate --model FOLDER", param_hint="demo")
    with one_sentence():
        done = follow(tables.run(model, objects, database, seed))
        if done is not None:
            typer.echo(tables.as_json(done.preview) if json else tables.written(done.preview))


@app.command(epilog="Example: omnisky generate my.sky --object demo-000005 --target hsc_image --samples 8 --out x.fits")
def generate(
    sky: SkyFolder,
    target: Annotated[str, typer.Option(help="What to make: hsc_image, legacy_image, desi_spectrum, sdss_spectrum, redshift, "
                                        "catalogue, segmentation or a token key; several, with commas, each from those before "
                                        "it, too.")],
    out: Annotated[Path, typer.Option(help="The FITS file; without --object a folder, of one file an object.")],
    object: Annotated[str | None, typer.Option(help="Its id, its row or a position; without it, every object.")] = None,
    model: Model = None,
    inputs: Inputs = None,
    samples: Annotated[int, typer.Option(min=1, help="How many to draw.")] = 1,
    scheme: Annotated[str, typer.Option(help="roar (random order), maskgit (likely ones first) or one-step.")] = "roar",
    steps: Annotated[int, typer.Option(min=1, help="Rounds at most.")] = 16,
    temperature: Annotated[float, typer.Option(min=0, help="1 draws as the model says, 0 takes the most probable.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(min=1, help="Only the most probable so many.")] = None,
    top_p: Annotated[float | None, typer.Option(min=0, max=1, help="Only the fewest that hold this share.")] = None,
    guidance: Annotated[float, typer.Option(min=0, help="Above 1: more like the inputs than the model says.")] = 1.0,
    cache: Annotated[bool, typer.Option(help="Read each token once, or all again in every round.")] = True,
    seed: Annotated[int, typer.Option(help="The same seed draws the same, whatever else is drawn.")] = 0,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Make what was not observed from what was, by a model, as FITS that says so. A stopped batch goes on if run again."""
    from engine import jobs
    from engine.generation.draws import Settings
    from engine.modalities import MODALITIES, NAMES, target_key

    keys = [target_key(name) for name in _keys(target) or [""]]
    for name in keys:
        if name not in MODALITIES:
            such = f"choose one of {', '.join(NAMES)}, or a token key such as tok_flux_g"
            raise typer.BadParameter(f"{name!r} is no target; {such}", param_hint="--target")
    try:
        Settings(scheme, steps, temperature, top_k, top_p, guidance, cache)  # type: ignore[arg-type]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    with one_sentence():
        follow(jobs.generate(sky, keys, out, object, model, inputs=_keys(inputs), scheme=scheme, steps=steps,
                             temperature=temperature, top_k=top_k, top_p=top_p, guidance=guidance, cache=cache, seed=seed,
                             samples=samples), json)


@app.command(epilog="Example: omnisky export my.sky --hats my-catalogue")
def export(
    sky: SkyFolder,
    hats: Annotated[Path, typer.Option(help="Folder for the HATS catalogue: sorted, partitioned Parquet.")],
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write the rows of a sky as a HATS catalogue, for LSDB, dask or any reader of Parquet."""
    from engine.store import Store

    with one_sentence():
        written = Store(sky).export_hats(hats)
        report({"catalogue": str(hats), "rows": written.rows, "partitions": written.partitions,
                "left out, without a position": written.left_out}, json)


@app.command(epilog="Example: omnisky download polymathic-ai/aion-base")
def download(
    repo: Annotated[str, typer.Argument(help="The model's repository, as owner/name.", metavar="REPO")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit; without it, the newest.")] = None,
    to: Annotated[Path | None, typer.Option(help="Folder; without it, one among your user data.", file_okay=False)] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Fetch a model from the Hugging Face hub, verified, without pickles. HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE count."""
    from engine import hub

    try:
        hub.check(repo, revision)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    with one_sentence():
        follow(hub.download(repo, revision, to), json)


@app.command(epilog="Example: omnisky doctor --json")
def doctor(json: Json = False, verbose: Verbose = False) -> None:
    """Say what is installed, which device models run on, and what is wrong."""
    from engine import doctor as checks

    facts, problems = checks.examine()
    report({**facts, "problems": problems or "none"} if json else facts, json)
    if not json:
        for problem in problems:
            typer.echo(f"Problem: {problem}", err=True)
    if problems:
        raise typer.Exit(DATA_ERROR)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line. Exit codes: 0 done, 1 the data are wrong, 2 wrong usage, 130 stopped by hand."""
    return app(args=arguments)


__all__ = ["DATA_ERROR", "USAGE_ERROR", "app", "main"]

if __name__ == "__main__":
    main()
