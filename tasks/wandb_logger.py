"""Where run directories of earlier versions name the logger."""

from tasks.dashboards.logger import DashboardLogger

__all__ = ["DashboardLogger"]
