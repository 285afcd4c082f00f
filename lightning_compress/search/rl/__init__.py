"""Parts of the reinforcement-learning searchers: features, episodes, replay buffer, policies."""
