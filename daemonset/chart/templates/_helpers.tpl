{{- define "kube-router.image" -}}
image: {{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end }}

{{- define "kube-router.gobgpd" -}}
- name: gobgpd
  {{- include "kube-router.image" . | nindent 2 }}
  command:
  - /usr/local/bin/gobgpd-sidecar
  lifecycle:
    preStop:
      exec:
        command:
        - /usr/local/bin/gobgpd-sidecar
        - --end
  resources:
    {{- toYaml .Values.gobgpd.resources | nindent 4 }}
  securityContext:
    allowPrivilegeEscalation: false
    capabilities:
      drop:
      - ALL
      add:
      - NET_BIND_SERVICE
  volumeMounts:
  - name: run
    mountPath: /run/kube-router
{{- end }}

{{- define "kube-router.placement" -}}
priorityClassName: {{ .Values.priorityClassName }}
hostNetwork: true
nodeSelector:
  {{- toYaml .Values.nodeSelector | nindent 2 }}
tolerations:
{{- toYaml .Values.tolerations | nindent 0 }}
{{- end }}

{{- define "kube-router.run" -}}
- name: run
  {{- if .Values.gobgpd.apart }}
  hostPath:
    path: /run/kube-router
    type: DirectoryOrCreate
  {{- else }}
  emptyDir: {}
  {{- end }}
{{- end }}

{{- define "kube-router.probe" -}}
httpGet:
  path: {{ index . 0 }}
  port: 20244
periodSeconds: {{ index . 1 }}
timeoutSeconds: 5
failureThreshold: {{ index . 2 }}
{{- end }}
