import sys

from benchmarks.replicas.command import main

if __name__ == "__main__":
    sys.exit(main())
