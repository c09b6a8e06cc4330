from django.contrib.auth.views import LoginView


class SignIn(LoginView):
    redirect_authenticated_user = True
