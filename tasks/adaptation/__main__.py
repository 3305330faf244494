"""``python -m tasks.adaptation``: the task's command line."""

from tasks.adaptation import main

if __name__ == "__main__":
    main()
