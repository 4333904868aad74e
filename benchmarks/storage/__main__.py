import sys

from benchmarks.storage.command import main

if __name__ == "__main__":
    sys.exit(main())
