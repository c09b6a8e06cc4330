from django.forms.renderers import TemplatesSetting


class Renderer(TemplatesSetting):
    """A form renderer that uses the templates in templates/forms/."""

    form_template_name = "forms/form.html"
    field_template_name = "forms/field.html"
