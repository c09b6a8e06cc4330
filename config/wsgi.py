import os

from django.core.wsgi import get_wsgi_application

from config.web.outage import limit_waiting

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

application = get_wsgi_application()
limit_waiting()
