import sys

from benchmarks.sharing.command import main

if __name__ == "__main__":
    sys.exit(main())
