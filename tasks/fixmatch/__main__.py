"""``python -m tasks.fixmatch``: the task's command line."""

from tasks.fixmatch import main

if __name__ == "__main__":
    main()
