"""`python -m suite.cli`, as `medsec`."""

from suite.cli.app import main

if __name__ == "__main__":
    main()
