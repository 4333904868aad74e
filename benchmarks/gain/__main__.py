import sys

from benchmarks.gain.command import main

if __name__ == "__main__":
    sys.exit(main())
