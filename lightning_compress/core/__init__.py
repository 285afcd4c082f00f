"""Plain data and arithmetic: plan, space, profile, budget, costs, errors, settings. No torch in plans and costs."""
