"""Data sets that come with kdsearch; the files they read come with a package, a path of the user's, or a download."""
