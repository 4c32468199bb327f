include { again ; options ; threads ; words } from '../shell'

// Which cells stay by their chromatin accessibility; every ATAC threshold is applied here, doublets are flagged
process ATAC_QC {
    tag "${meta.sample}"
    label 'process_low'
    label 'image_cpu'

    input:
    tuple val(meta), path(counts, stageAs: 'counts/*'), path(fragments_qc, stageAs: 'fragments_qc/*'), path(barcodes, stageAs: 'barcodes/*'), path(barcode_map, stageAs: 'barcode_map/*'), path(cells, stageAs: 'cells/*'), path(hto, stageAs: 'hto/*'), val(hto_features) // all but counts may be []
    val settings // thresholds and seed

    output:
    tuple val(meta), path("*.atac.h5ad"), emit: cells
    path "qc/${meta.sample}/*"
    path 'kept', emit: qc // a second name: a folder that is an output hides its files from publishDir
    path '*.resources.json', topic: resources
    tuple val("${task.process}"), val('packages'), eval('multivi-nf --packages'), topic: versions

    script:
    """
    ${threads(task.cpus)}
    multivi-nf-qc-atac --resources ${meta.sample}.atac_qc.resources.json ${words(counts)} --sample=${meta.sample} \\
        ${options(fragments_qc: fragments_qc, barcodes: barcodes, barcode_map: barcode_map, cells: cells, hto: hto, hto_features: hto_features)} \\
        ${options(settings)} --output=${meta.sample}.atac.h5ad --qc=qc/${meta.sample}
    ${again('qc', 'kept')}
    """

    stub:
    """
    mkdir -p qc/${meta.sample}
    touch ${meta.sample}.atac.h5ad
    echo '{}' | tee qc/${meta.sample}/atac.json > ${meta.sample}.atac_qc.resources.json
    ${again('qc', 'kept')}
    """
}
