"""Recipes: a plan that was found, and the overrides of the configuration that it was found under."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from lightning_compress.app.shipped import shipped
from lightning_compress.core.errors import CompressError, did_you_mean
from lightning_compress.core.yaml_file import read_yaml

FOLDER = "recipes"


def recipe_file(name: str) -> Path:
    """Return the file of a recipe, from ``recipes/`` of the current folder or else from those of the application.

    Args:
        name: its path below ``recipes/``, without ``.yaml``.

    Raises:
        CompressError: there is no such recipe, or the name leads out of ``recipes/``.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise CompressError(
            f"recipe: {name!r} leads out of {FOLDER}/, expected the path of a file below it without .yaml, such as "
            f"digits/resnet8-drl_quant; a plan that lies elsewhere is given with plan=FILE"
        )
    folders = list(dict.fromkeys(folder.resolve() for folder in (Path(FOLDER), shipped(FOLDER))))
    for folder in folders:
        if (file := folder / f"{name}.yaml").is_file():
            return file
    known = sorted(
        {f.relative_to(folder).with_suffix("").as_posix() for folder in folders for f in folder.rglob("*.yaml")}
    )
    looked = " or ".join(f"'{folder / name}.yaml'" for folder in folders)
    raise CompressError(f"recipe: there is no {looked}{did_you_mean(name, known)}; known: {known}")


def with_recipe(arguments: Sequence[str]) -> list[str]:
    """Add the overrides of the recipe that a command line names, without those that it gives itself.

    Args:
        arguments: of the command line; without ``recipe=NAME`` they are returned as they are.

    Raises:
        CompressError: there is no such recipe, its file is damaged, or more than one is named.
    """
    names = [argument.partition("=")[2] for argument in arguments if _key(argument) == "recipe"]
    if not names or names == ["null"]:
        return list(arguments)
    if len(names) > 1 or "," in names[0]:
        raise CompressError(f"recipe: got {','.join(names)!r}, expected one recipe; start one run for each")
    file = recipe_file(names[0])
    try:
        overrides = read_yaml(file, "recipe")["overrides"]
    except (TypeError, KeyError) as error:
        raise CompressError(f"recipe: {str(file)!r} has no list 'overrides' ({error}); restore the file") from error
    given = {_key(argument) for argument in arguments}
    found = [override for override in overrides if _key(override) not in given]
    place = next(i for i, argument in enumerate(arguments) if _key(argument) == "recipe")
    return [*arguments[:place], *found, *arguments[place:]]  # Hydra reads overrides in one piece, not around options


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]
