"""From a trained module and a budget to a small file: compress(), stages, planners, evaluator, training, figures."""
