"""Parts of the reinforcement-learning searchers: features, walks, replay buffer, policies."""
