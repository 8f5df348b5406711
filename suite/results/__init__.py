"""What a run leaves behind: metrics, measurement rows, the sealed run folder."""
