"""``python -m tasks.text``: the task's command line."""

from tasks.text import main

if __name__ == "__main__":
    main()
