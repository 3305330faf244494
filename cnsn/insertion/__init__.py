"""How layers get into a built network, act there and leave it: the parts of `cnsn.insert`."""
