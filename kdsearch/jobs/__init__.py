"""Jobs as executors run them: in this process, or in processes that are watched. Plugins find them in `kdsearch.kit.jobs`."""
