"""`mnemos models sign` and `verify`: who vouches for a model, and whether its files are whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..options import engram_options, genome_option, output_option
from ..output import Format, emit_record, note

if TYPE_CHECKING:
    from ..engram import EngramTarget


@click.command("sign")
@click.argument("name", metavar="FAMILY:VERSION")
@click.option(
    "--key",
    required=True,
    metavar="KEY.pem",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The private key (elliptic-curve, PEM); its password is MNEMOS_SIGNING_KEY_PASSWORD.",
)
@output_option()
@genome_option()
def sign_model_command(name: str, key: Path, genome_url: str, output: Format) -> None:
    """Vouch for a registered version: its files as they are registered, under this name.

    The files are not read: check them first with `mnemos models verify`.

    \b
    Examples
      openssl ecparam -genkey -name prime256v1 -noout -out key.pem
      openssl ec -in key.pem -pubout -out key.pub
      mnemos models sign my-model:1.0 --key key.pem
    """
    from ..http import run_async
    from ..names import split_full_name
    from ..sources.trust import sign_model

    model = run_async(sign_model(genome_url, split_full_name(name), key))
    if output is Format.JSON:
        emit_record(model, output)
    else:
        note(f"{name} is signed.")


@click.command("verify")
@click.argument("name", metavar="FAMILY:VERSION")
@click.option(
    "--trust",
    "keys",
    multiple=True,
    metavar="KEY.pub",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A public key (PEM) that may vouch for it; repeatable.  [default: no signature is wanted]",
)
@click.option("--quick", is_flag=True, help="Do not read the files in ENGRAM.")
@output_option()
@genome_option()
@engram_options
def verify_model(
    name: str,
    keys: tuple[Path, ...],
    quick: bool,
    genome_url: str,
    engram: EngramTarget,
    data_dir: Path,
    output: Format,
) -> None:
    """Read a version's files in ENGRAM and compare them with what is registered.

    With --trust, its signature must be by one of the keys, too.

    \b
    Examples
      mnemos models verify my-model:1.0
      mnemos models verify my-model:1.0 --trust key.pub --quick
    """
    from ..errors import UsageFault
    from ..http import run_async
    from ..names import split_full_name
    from ..sources.trust import check_model

    if quick and not keys:
        raise UsageFault("--quick without --trust leaves nothing to verify.")
    checking = check_model(genome_url, engram, split_full_name(name), keys, read_files=not quick)
    model = run_async(checking)
    checked = {
        "model": name,
        "checksum": model["artifact"]["checksum"],
        "files_read": not quick,
        "signature": "trusted" if keys else None,
    }
    if output is Format.JSON:
        emit_record(checked, output)
        return
    said = [] if quick else [f"all {len(model['files'])} files are whole"]
    note(f"{name}: {', '.join([*said, *(['its signature is trusted'] if keys else [])])}.")


TRUST_COMMANDS = (sign_model_command, verify_model)
