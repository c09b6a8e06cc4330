"""The settings of the nodes of the tests' Ray cluster, which also know the test kind of run."""

from config.settings import *  # noqa: F403
from config.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.cluster_app.ClusterApp"]
