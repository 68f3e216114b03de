"""Mirrors of a study's trainings in other tools: each below the study's folder, without a network, unless it is told otherwise."""
