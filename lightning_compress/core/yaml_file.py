"""Read YAML that people write by hand: what is wrong with it is said in a sentence."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from lightning_compress.core.errors import CompressError


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice, of which YAML would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable) or key in seen:
                what = "is there twice" if isinstance(key, Hashable) else "cannot be a key"
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} {what}", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, what: str) -> Any:
    """Return what a YAML file holds, as plain types.

    Args:
        path: the file.
        what: begins the sentence of an error, such as ``plan``.

    Raises:
        CompressError: there is no such file, it cannot be read, it is no YAML, or a key is there twice.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError as error:
        raise CompressError(f"{what}: there is no file {str(path)!r}") from error
    except OSError as error:
        raise CompressError(f"{what}: {str(path)!r} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.reader.ReaderError) as error:
        raise CompressError(f"{what}: {str(path)!r} is no text; expected a YAML file") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = "" if mark is None else f", line {mark.line + 1}"
        raise CompressError(f"{what}: {str(path)!r}{line}: {error.problem}; expected YAML") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: such as a date with a month of 13
        raise CompressError(f"{what}: {str(path)!r} is no YAML ({error})") from error
