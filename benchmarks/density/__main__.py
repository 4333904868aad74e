import sys

from benchmarks.density.command import main

if __name__ == "__main__":
    sys.exit(main())
