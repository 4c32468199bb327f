include { quoted } from '../shell'

// Which bytes went in: path, size and SHA-256 of every input file of a sample
process FINGERPRINT {
    tag "${meta.sample}"
    label 'process_single'
    label 'image_cpu'

    input:
    tuple val(meta), val(columns), val(origins), path(inputs, stageAs: 'input?/*') // columns and origins: one an input

    output:
    tuple val(meta), path("*.inputs.tsv"), emit: table // sample, column, path, size (bytes), sha256; a folder: one row a file

    script:
    def staged = inputs instanceof List ? inputs : [inputs]
    def rows = [columns, origins, staged].transpose().collect { column, origin, file ->
        "row ${column} ${quoted(origin)} ${quoted(file)}"
    }
    """
    row() {
        find -L "\$3" -type f | LC_ALL=C sort | while IFS= read -r file; do
            inside="\${file#"\$3"}"
            sum="\$(sha256sum < "\$file")"
            printf '%s\\t%s\\t%s\\t%s\\t%s\\n' ${meta.sample} "\$1" "\$2\$inside" "\$(stat -Lc %s "\$file")" "\${sum%% *}"
        done
    }
    { ${rows.join(' ; ')} ; } > ${meta.sample}.inputs.tsv
    """

    stub:
    """
    printf '%s\\trna\\tstub\\t0\\t0\\n' ${meta.sample} > ${meta.sample}.inputs.tsv
    """
}
