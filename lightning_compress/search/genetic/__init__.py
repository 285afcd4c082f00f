"""Parts of the genetic searchers: genes and operators, boundaries, and a genetic algorithm over fixed-size subsets."""
