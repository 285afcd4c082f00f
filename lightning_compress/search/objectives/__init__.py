"""Objectives: score -> reward."""
