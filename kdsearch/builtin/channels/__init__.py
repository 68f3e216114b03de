"""Structured channel pruning: channels followed through a network, groups of them cut exactly to a target.

`tracing` follows labels of channels (`axes`, rules in `operators` and `recurrent`), `groups` and `levels` choose what goes by
`importance`, `surgery` cuts, `exact` checks, and `pruner` is the capability.
"""
