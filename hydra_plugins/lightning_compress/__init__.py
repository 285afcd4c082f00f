"""Puts the options behind ``+compress=NAME`` on the search path of every Hydra application that has this package."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin
from typing_extensions import override


class LightningCompressSearchPath(SearchPathPlugin):
    """Hydra imports this at every start of every application, so it imports neither torch nor lightning."""

    @override
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="lightning-compress", path="pkg://lightning_compress.conf")
