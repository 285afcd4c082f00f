"""The methods: one Lightning callback a file, each applying its knobs of a plan while the network is fine-tuned."""
