"""``python -m tasks.classification``: the task's command line."""

from tasks.classification import main

if __name__ == "__main__":
    main()
