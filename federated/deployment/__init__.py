"""A federation of real hospitals: configuration, policy, keys, SuperLink and SuperNode."""
