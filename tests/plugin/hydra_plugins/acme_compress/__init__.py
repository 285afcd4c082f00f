"""Puts the options of this package on the search path of every Hydra application."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class AcmeCompressSearchPath(SearchPathPlugin):
    """Hydra imports this at every start."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="acme-compress", path="pkg://acme_compress.conf")
