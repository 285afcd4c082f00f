"""Parts of the genetic searchers: genes and operators, and boundaries."""
