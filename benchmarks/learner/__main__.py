import sys

from benchmarks.learner.command import main

if __name__ == "__main__":
    sys.exit(main())
