"""Tools for plugins, the built-in ones among them: what they need of kdsearch beyond its contracts (`kinds`) and formulas (`ops`).

One subject a module, stable within a major version. Nothing heavy is imported before it is used.
"""
