from django.forms.renderers import TemplatesSetting


class Renderer(TemplatesSetting):
    """The form renderer, which uses the templates in templates/forms/."""

    form_template_name = "forms/form.html"
    field_template_name = "forms/field.html"
