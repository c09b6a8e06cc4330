import os

from django.core.wsgi import get_wsgi_application

from config.web.outage import limit_waiting
from config.web.prefix import under_prefix_wsgi

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

application = under_prefix_wsgi(get_wsgi_application())
limit_waiting()
