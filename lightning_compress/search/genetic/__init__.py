"""Parts of the genetic searchers: genes, operators, boundaries."""
