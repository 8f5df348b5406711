"""What a model remembers or gives away: membership, attributes, typical inputs, and itself. Knows only `suite`."""
