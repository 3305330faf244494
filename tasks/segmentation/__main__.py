"""``python -m tasks.segmentation``: the task's command line."""

from tasks.segmentation import main

if __name__ == "__main__":
    main()
