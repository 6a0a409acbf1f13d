"""Commands on encoders: which there are, and what one is."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from flows.commands.options import escaped, output, say

app = typer.Typer(help="Which encoders there are, and what one is, without downloading it.", no_args_is_help=True)


@app.command("list")
def list_encoders(
    word: Annotated[str | None, typer.Argument(help="Only those with this word in model or tag.")] = None,
) -> None:
    """List the models and tags that open_clip has weights of, and the one that ships here.

    Example: `placeprint encoders list siglip`
    """
    from tasks.encode.description import describe_encoder
    from tasks.encode.encoder_settings import DEMO_MODEL, EncoderSettings
    from tasks.encode.registry import list_pretrained

    wanted = (word or "").lower()
    names: list[tuple[str, str | None]] = [(DEMO_MODEL, None), *list_pretrained()]
    names = [(model, tag) for model, tag in names if wanted in f"{model} {tag or ''}".lower()]
    if not names:
        say(f"no encoder has {word!r} in its name; placeprint encoders list shows all")
        raise typer.Exit(1)
    table = Table()
    for name in ("model", "tag", "numbers", "pixels", "activation", "resize"):
        table.add_column(name, overflow="fold")
    for model, tag in names:
        identity = describe_encoder(EncoderSettings(model=model, pretrained=tag, device="cpu")).identity
        height, width = identity.preprocessing.size
        table.add_row(
            escaped(model),
            escaped(tag or ""),
            str(identity.dimension),
            f"{width} x {height}",
            "QuickGELU" if identity.quick_gelu else "GELU",
            f"{identity.preprocessing.interpolation}, {identity.preprocessing.resize_mode}",
        )
    output.print(table)


@app.command("show")
def show_encoder(
    model: Annotated[str, typer.Argument(help="As encode.encoder.model: an open_clip name, hf-hub:…, local-dir:…, …")],
    tag: Annotated[str | None, typer.Argument(help="As encode.encoder.pretrained: a tag, or a checkpoint.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what an encoder is: architecture, activation, preprocessing, tokenizer, dimension. Weights are not downloaded.

    Example: `placeprint encoders show ViT-B-32 openai`
    """
    import json

    from tasks.encode.description import describe_encoder
    from tasks.encode.encoder_settings import EncoderSettings

    found = describe_encoder(EncoderSettings(model=model, pretrained=tag))
    identity = found.identity
    if as_json:
        content = {"model": found.model, "pretrained": tag, **identity.as_json()}
        content |= {"assumed": list(found.assumed), "remarks": list(found.remarks)}
        del content["weights"]
        output.print_json(json.dumps(content), indent=2)
        return
    table = Table(show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in (
        ("architecture", identity.architecture),
        ("numbers", str(identity.dimension)),
        ("activation", "QuickGELU" if identity.quick_gelu else "GELU"),
        ("preprocessing", str(identity.preprocessing)),
        ("tokenizer", identity.tokenizer),
        ("precision here", identity.precision),
        *(("assumed", text) for text in found.assumed),
        *(("note", text) for text in found.remarks),
    ):
        table.add_row(name, escaped(value))
    output.print(table)
